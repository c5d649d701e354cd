"""HTTP/1.1: connections, parsing, messages, compression. Nothing here knows about models."""
