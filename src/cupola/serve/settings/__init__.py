"""The settings of the server: declarations, sources, and the models they name."""
