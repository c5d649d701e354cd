"""OpenTelemetry: spans of requests in workers and runners, and metrics; off by default.

The extra `otel` installs what this package imports, after the fork and only if it is on.
"""
