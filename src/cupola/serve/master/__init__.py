"""The master process, which starts, supervises and replaces all others."""
