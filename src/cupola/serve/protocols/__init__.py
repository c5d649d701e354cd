"""The HTTP protocols of the server. Each module has a table of its routes, `ROUTES`."""
