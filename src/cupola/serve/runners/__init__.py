"""The processes that run models, and what they do with a request."""
