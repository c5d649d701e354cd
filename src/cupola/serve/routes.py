"""All routes of the server. A new protocol adds its table here."""

from cupola.serve import pages
from cupola.serve.http.routing import Router
from cupola.serve.protocols import grpc_methods, openai, operations, v2

ROUTER = Router(
    [*v2.ROUTES, *openai.ROUTES, *operations.ROUTES, *pages.ROUTES],
    error_formats={"/v1/": openai.error_body},
    methods=grpc_methods.METHODS,
)
