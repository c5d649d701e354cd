"""All methods that are served over gRPC. A new one is added to the table here.

What is not inference is answered as over REST: the document becomes a message.
"""

from collections.abc import Callable
from typing import Any

import orjson

from cupola.serve.grpc.call import Method
from cupola.serve.grpc.messages import HEALTH, INFERENCE, REFLECTION, message, parse
from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.protocols import grpc_health, grpc_inference, grpc_reflection, v2
from cupola.serve.worker.context import WorkerContext


def _unary(name: str, answer: Callable[..., Any], **details: Any) -> Method:
    """A method whose answer is a message, or a response with a stream of them."""

    def respond(context: WorkerContext, request: Request) -> Response:
        found = answer(context, request, parse(name, request.body_bytes()))
        return found if isinstance(found, Response) else Response(200, found.SerializeToString())

    async def respond_unpacked(context: WorkerContext, request: Request) -> Response:
        await context.decompressor.unpack(request)
        return respond(context, request)

    def handler(context: WorkerContext, request: Request) -> Any:
        packed = "content-encoding" in request.headers
        return (respond_unpacked if packed else respond)(context, request)

    return Method(handler, **details)


def _as_rest(
    name: str, rest: Callable[..., Response], wrap: Callable[[Any], Any] = lambda found: found
) -> Method:
    """A method answered by a REST handler that takes name and version of a model, or neither."""

    def answer(context: WorkerContext, request: Request, asked: Any) -> Any:
        names = [asked.name or None, asked.version or None] if "name" in _fields(asked) else []
        if names and names[0] is None and rest is not v2.statistics:
            raise HTTPError(400, "the name of the model is missing")
        document = orjson.loads(rest(context, request, *names).body)
        return _from_document(f"{name}Response", wrap(document))

    return _unary(f"{name}Request", answer, public=name in ("ServerLive", "ServerReady"))


def _from_document(name: str, document: Any) -> Any:
    """The message with the values of a JSON document; what it has no field for is left out."""
    from google.protobuf.json_format import ParseDict

    return ParseDict(document, message(name)(), ignore_unknown_fields=True)


def _fields(asked: Any) -> Any:
    return asked.DESCRIPTOR.fields_by_name


def _index(context: WorkerContext, request: Request, asked: Any) -> Any:
    request.body = orjson.dumps({"ready": asked.ready})
    models = orjson.loads(v2.index(context, request).body)
    return _from_document("RepositoryIndexResponse", {"models": models})


def _repository(name: str, rest: Callable[..., Any]) -> Method:
    """Load or unload, which are for operators."""

    async def handler(context: WorkerContext, request: Request) -> Response:
        if not request.operations:
            raise HTTPError(501, "this address is not for operators; see `operations_listen`")
        await context.decompressor.unpack(request)
        asked = parse(f"{name}Request", request.body_bytes())
        parameters = {}
        for key, value in asked.parameters.items():
            chosen = value.WhichOneof("parameter_choice")
            if chosen not in (None, "bytes_param"):  # bytes: files of a model of Triton's
                parameters[key] = getattr(value, chosen)
        request.body = orjson.dumps({"parameters": parameters})
        request.headers["content-type"] = "application/json"
        await rest(context, request, asked.model_name)
        return Response(200, b"")

    return Method(handler, operations=True)


def _table() -> dict[str, Method]:
    inference_methods = {
        "ModelInfer": Method(grpc_inference.infer),
        "ModelStreamInfer": Method(grpc_inference.stream_infer, streams=True),
        "ServerLive": _as_rest("ServerLive", v2.live),
        "ServerReady": _as_rest("ServerReady", v2.ready),
        "ModelReady": _as_rest("ModelReady", v2.model_ready),
        "ServerMetadata": _as_rest("ServerMetadata", v2.server_metadata),
        "ModelMetadata": _as_rest("ModelMetadata", v2.metadata),
        "ModelConfig": _as_rest("ModelConfig", v2.config, lambda found: {"config": found}),
        "ModelStatistics": _as_rest("ModelStatistics", v2.statistics),
        "RepositoryIndex": _unary("RepositoryIndexRequest", _index),
        "RepositoryModelLoad": _repository("RepositoryModelLoad", v2.load),
        "RepositoryModelUnload": _repository("RepositoryModelUnload", v2.unload),
    }
    package = HEALTH.rpartition(".")[0]
    health_methods = {
        "Check": _unary(f"{package}.HealthCheckRequest", grpc_health.check, public=True),
        "List": _unary(f"{package}.HealthListRequest", grpc_health.list_services, public=True),
        "Watch": _unary(f"{package}.HealthCheckRequest", grpc_health.watch, public=True),
    }
    services = {INFERENCE: inference_methods, HEALTH: health_methods}
    for name in REFLECTION:
        handler = grpc_reflection.reflect(name.rpartition(".")[0])
        services[name] = {"ServerReflectionInfo": Method(handler, streams=True)}
    return {
        f"/{service}/{name}": method
        for service, methods in services.items()
        for name, method in methods.items()
    }


METHODS = _table()
