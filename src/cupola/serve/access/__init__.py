"""Who may send requests, and how many: API keys, rate limits, limits of requests in progress."""
