"""gRPC: the Open Inference Protocol, health checking and reflection, over HTTP/2 in the workers.

The extra `grpc` installs what this package imports.
"""
