"""The response cache on disk, and the processes that maintain it."""
