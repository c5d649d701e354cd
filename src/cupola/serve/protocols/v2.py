"""Open Inference Protocol v2 over REST, with Triton's repository, config and statistics."""

import asyncio
from typing import Any

import cupola
from cupola.serve.http.messages import HTTPError, Request, Response, json_response
from cupola.serve.http.routing import BINARY, JSON, Content, Handler, Parameter, Route
from cupola.serve.protocols.v2_inference import EVENTS, JSON_LINES, generate_stream, infer
from cupola.serve.protocols.v2_schemas import (
    IndexEntry,
    IndexRequest,
    InferenceRequest,
    InferenceResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    RepositoryRequest,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)
from cupola.serve.worker.context import WorkerContext
from cupola.serve.worker.metrics import ModelMetrics
from cupola.serve.worker.runner_connections import Model

EXTENSIONS = [
    "binary_tensor_data", "model_repository", "model_repository(unload_dependents)",
    "model_configuration", "statistics",
]  # fmt: skip
_TRITON_TYPES = {"BYTES": "TYPE_STRING"}

# ---- health and metadata


def server_metadata(context: WorkerContext, request: Request) -> Response:
    return json_response(ServerMetadata("cupola", cupola.__version__, EXTENSIONS))


def live(context: WorkerContext, request: Request) -> Response:
    return json_response(Live(True))


def ready(context: WorkerContext, request: Request) -> Response:
    is_ready = context.directory.ready and not context.leaving
    return json_response(Ready(is_ready), 200 if is_ready else 503)


def model_ready(
    context: WorkerContext, request: Request, name: str, version: str | None = None
) -> Response:
    model = context.find(request, name, version)
    is_ready = context.directory.is_ready(model) and not context.leaving
    return json_response(ModelReady(model.name, is_ready), 200 if is_ready else 503)


def metadata(
    context: WorkerContext, request: Request, name: str, version: str | None = None
) -> Response:
    model = context.find(request, name, version)
    about = _description(model)
    inputs, outputs = (
        [TensorMetadata(spec["name"], spec["datatype"], spec["shape"]) for spec in about[side]]
        for side in ("inputs", "outputs")
    )
    versions = list(context.directory.models[name])
    platform = f"cupola_{about['task']}"
    return json_response(ModelMetadata(model.name, versions, platform, inputs, outputs))


def _description(model: Model) -> dict[str, Any]:
    if "inputs" not in model.description:
        raise HTTPError(503, f"{model.name} is not ready yet")
    return model.description


def config(
    context: WorkerContext, request: Request, name: str, version: str | None = None
) -> Response:
    """Triton's model configuration."""
    model = context.find(request, name, version)
    about = _description(model)
    return json_response(
        {
            "name": model.name,
            "platform": f"cupola_{about['task']}",
            "backend": "cupola",
            "max_batch_size": 0,
            "input": [_config_tensor(spec) for spec in about["inputs"]],
            "output": [_config_tensor(spec) for spec in about["outputs"]],
            "dynamic_batching": {
                "preferred_batch_size": [about["max_batch"]],
                "max_queue_delay_microseconds": int(about["batch_delay"] * 1e6),
            },
            "instance_group": [{"count": about["runners"], "kind": "KIND_CPU"}],
            "version_policy": {"all": {}},
            "model_transaction_policy": {"decoupled": about["streams"]},
        }
    )


def _config_tensor(spec: dict[str, Any]) -> dict[str, Any]:
    kind = _TRITON_TYPES.get(spec["datatype"], f"TYPE_{spec['datatype']}")
    entry = {"name": spec["name"], "data_type": kind, "dims": spec["shape"]}
    return entry | ({"optional": True} if spec.get("optional") else {})


# ---- statistics


def statistics(
    context: WorkerContext, request: Request, name: str | None = None, version: str | None = None
) -> Response:
    """Counts since the start of the answering worker; /metrics covers all workers."""
    directory = context.directory
    if name is None:
        models = [model for model in directory.all() if context.may_use(request, model.name)]
    elif version is None:
        context.find(request, name)
        models = list(directory.models[name].values())
    else:
        models = [context.find(request, name, version)]
    context.metrics.flush()
    counts = [_statistics(model, context.metrics.for_model(model)) for model in models]
    return json_response(Statistics(counts))


def _statistics(model: Model, counts: ModelMetrics) -> dict[str, Any]:
    queue, batch, run, encode = (
        {"count": counts.answers, "ns": int(phase.total * 1e9)} for phase in counts.phases
    )
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": int(counts.last * 1000),
        "inference_count": counts.samples,
        "execution_count": counts.answers,
        "inference_stats": {
            "success": {"count": counts.answers, "ns": int(counts.total.total * 1e9)},
            "fail": {"count": counts.failures, "ns": 0},
            "queue": queue,
            "compute_input": batch,
            "compute_infer": run,
            "compute_output": encode,
            "cache_hit": {"count": counts.hits, "ns": 0},
            "cache_miss": {"count": counts.misses, "ns": 0},
        },
        "batch_stats": [],
    }


# ---- repository


def index(context: WorkerContext, request: Request) -> Response:
    directory = context.directory
    entries = []
    for model in directory.all():
        if not context.may_use(request, model.name):
            continue
        if directory.is_ready(model):
            entry = IndexEntry(model.name, model.version, "READY", "")
        else:
            reason = str(model.description.get("failure", ""))
            entry = IndexEntry(model.name, model.version, "UNAVAILABLE", reason)
        entries.append(entry)
    options = request.json() if request.body else {}
    if isinstance(options, dict) and options.get("ready"):
        entries = [entry for entry in entries if entry.state == "READY"]
    return json_response(entries)


async def load(context: WorkerContext, request: Request, name: str) -> Response:
    """Loads a bundle; `parameters` may contain `bundle` (a folder), `version` and `runners`."""
    context.require_admin(request)
    parameters = _parameters(request)
    parameters.pop("config", None)
    key = "name" if "bundle" in parameters else "bundle"
    await context.directory.request("load", model={key: name, **parameters})
    await asyncio.wait_for(context.directory.settled(), context.settings.ready_timeout)
    return Response(200, b"")


async def unload(context: WorkerContext, request: Request, name: str) -> Response:
    """Takes a model, or one version of it, out of service."""
    context.require_admin(request)
    version = _parameters(request).get("version")
    context.find(request, name, version)
    await context.directory.request("unload", name=name, version=version)
    return Response(200, b"")


def _parameters(request: Request) -> dict[str, Any]:
    document = request.json() if request.body else {}
    parameters = document.get("parameters", {}) if isinstance(document, dict) else None
    if not isinstance(parameters, dict):
        raise HTTPError(400, "`parameters` must be an object")
    parameters.pop("unload_dependents", None)
    return parameters


# ---- routes

_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
MODEL_NAME = Parameter("model_name", "path", _NAME, "A model of the repository index.")
MODEL_VERSION = Parameter("model_version", "path", _NAME, "One of its versions.")
JSON_SIZE = Parameter(
    "Inference-Header-Content-Length", "header", {"type": "integer", "minimum": 0},
    "Size of the JSON part of the body in bytes; binary tensors follow it.",
)  # fmt: skip
TIMEOUT = Parameter(
    "X-Request-Timeout", "header", {"type": "number", "exclusiveMinimum": 0}, "Seconds."
)
_OBJECT: dict[str, Any] = {"type": "object"}
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_TEXT: dict[str, Any] = {"type": "string"}
_BODY: Content = {
    JSON: InferenceRequest, BINARY: _FILE, "image/jpeg": _FILE, "image/png": _FILE,
    "application/x-npy": _FILE, "multipart/form-data": _OBJECT,
}  # fmt: skip
_INFERENCE: dict[str, Any] = {
    "request": _BODY,
    "errors": (400, 404, 413, 415, 429, 500, 503, 504),
    "parameters": (JSON_SIZE, TIMEOUT),
}


def _model_routes(
    method: str,
    suffix: str,
    handler: Handler,
    summary: str,
    responses: dict[int, type[Any] | Content],
    parameters: tuple[Parameter, ...] = (),
    **details: Any,
) -> list[Route]:
    """Two routes: of the newest version of a model, and of a given version."""
    base, versioned = "/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"
    in_path = {base: (MODEL_NAME,), versioned: (MODEL_NAME, MODEL_VERSION)}
    return [
        Route(method, path + suffix, handler, summary, "models", responses,
              parameters=(*names, *parameters), **details)
        for path, names in in_path.items()
    ]  # fmt: skip


def _repository_route(path: str, handler: Handler, summary: str, **details: Any) -> Route:
    return Route("POST", f"/v2/repository/{path}", handler, summary, "repository",
                 request_required=False, **details)  # fmt: skip


_ADMIN: dict[str, Any] = {
    "responses": {200: {}},
    "errors": (400, 403, 404, 415, 503),
    "request": {JSON: RepositoryRequest},
    "parameters": (MODEL_NAME,),
    "operations": True,
}
ROUTES = [
    Route("GET", "/v2", server_metadata, "Server metadata", "server", {200: ServerMetadata}),
    Route("GET", "/v2/health/live", live, "Whether the worker is running", "server", {200: Live},
          public=True),
    Route("GET", "/v2/health/ready", ready, "Whether every model has a ready runner", "server",
          {200: Ready, 503: Ready}, public=True),
    Route("GET", "/v2/models/stats", statistics, "Statistics of all models", "models",
          {200: Statistics}),
    *_model_routes("GET", "", metadata, "Model metadata", {200: ModelMetadata}, errors=(404, 503)),
    *_model_routes("GET", "/ready", model_ready, "Whether the model has a ready runner",
                   {200: ModelReady, 503: ModelReady}, errors=(404,)),
    *_model_routes("GET", "/config", config, "Model configuration", {200: {JSON: _OBJECT}},
                   errors=(404, 503)),
    *_model_routes("GET", "/stats", statistics, "Model statistics", {200: Statistics},
                   errors=(404,)),
    *_model_routes("POST", "/infer", infer, "Run the model",
                   {200: {JSON: InferenceResponse, BINARY: _FILE}}, **_INFERENCE),
    *_model_routes("POST", "/generate_stream", generate_stream, "Run the model, stream the answer",
                   {200: {EVENTS: _TEXT, JSON_LINES: _TEXT}}, **_INFERENCE),
    _repository_route("index", index, "Models and their states", errors=(400,),
                      responses={200: {JSON: list[IndexEntry]}}, request={JSON: IndexRequest}),
    _repository_route("models/{model_name}/load", load, "Load a model (admin)", **_ADMIN),
    _repository_route("models/{model_name}/unload", unload, "Unload a model (admin)", **_ADMIN),
]  # fmt: skip
