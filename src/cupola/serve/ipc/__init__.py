"""How the processes of a server communicate: signals, channels, sockets, frames, shared pages."""
