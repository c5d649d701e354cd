"""Open Inference Protocol v2 over REST, with Triton's repository, config and statistics.

Bodies go to the runner as they came (it holds the tensors); here only headers are judged.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

import cupola
from cupola.serve.http.compression import SMALL, pack, unpack
from cupola.serve.http.messages import Refusal, Request, Response, Sink
from cupola.serve.ipc import frames as wire
from cupola.serve.worker.context import Context, Inference, Later, Outcome
from cupola.serve.worker.metrics import ModelMetrics
from cupola.serve.worker.runner_connections import Model

EXTENSIONS = [
    "binary_tensor_data", "model_repository", "model_repository(unload_dependents)",
    "model_configuration", "statistics",
]  # fmt: skip
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_TRITON_TYPES = {"BYTES": "TYPE_STRING"}


def as_json(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, orjson.dumps(value))


def server_metadata(context: Context, request: Request) -> Response:
    return as_json({"name": "cupola", "version": cupola.__version__, "extensions": EXTENSIONS})


def live(context: Context, request: Request) -> Response:
    return as_json({"live": True})


def ready(context: Context, request: Request) -> Response:
    good = context.fleet.ready
    return as_json({"ready": good}, 200 if good else 503)


def model_ready(context: Context, request: Request, name: str, version: str | None) -> Response:
    model = context.fleet.find(name, version)
    good = context.fleet.is_ready(model)
    return as_json({"name": model.name, "ready": good}, 200 if good else 503)


def metadata(context: Context, request: Request, name: str, version: str | None) -> Response:
    model = context.fleet.find(name, version)
    about = _described(model)
    return as_json(
        {
            "name": model.name,
            "versions": list(context.fleet.models[name]),
            "platform": f"cupola_{about['task']}",
            "inputs": [_spec(spec) for spec in about["inputs"]],
            "outputs": [_spec(spec) for spec in about["outputs"]],
        }
    )


def _described(model: Model) -> dict[str, Any]:
    if "inputs" not in model.about:
        raise Refusal(503, f"{model.name} is not ready yet")
    return model.about


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    return {"name": spec["name"], "datatype": spec["datatype"], "shape": spec["shape"]}


def config(context: Context, request: Request, name: str, version: str | None) -> Response:
    model = context.fleet.find(name, version)
    about = _described(model)

    def tensor(spec: dict[str, Any]) -> dict[str, Any]:
        kind = _TRITON_TYPES.get(spec["datatype"], f"TYPE_{spec['datatype']}")
        entry = {"name": spec["name"], "data_type": kind, "dims": spec["shape"]}
        return entry | ({"optional": True} if spec.get("optional") else {})

    return as_json(
        {
            "name": model.name,
            "platform": f"cupola_{about['task']}",
            "backend": "cupola",
            "max_batch_size": 0,
            "input": [tensor(spec) for spec in about["inputs"]],
            "output": [tensor(spec) for spec in about["outputs"]],
            "dynamic_batching": {
                "preferred_batch_size": [about["max_batch"]],
                "max_queue_delay_microseconds": int(about["batch_delay"] * 1e6),
            },
            "instance_group": [{"count": about["runners"], "kind": "KIND_CPU"}],
            "version_policy": {"all": {}},
            "model_transaction_policy": {"decoupled": about["streams"]},
        }
    )


def statistics(
    context: Context, request: Request, name: str | None = None, version: str | None = None
) -> Response:
    """Counts since the worker that answers began; the Prometheus page covers all workers."""
    if name is None:
        models = [
            model for versions in context.fleet.models.values() for model in versions.values()
        ]
    elif version is None:
        context.fleet.find(name)
        models = list(context.fleet.models[name].values())
    else:
        models = [context.fleet.find(name, version)]
    context.metrics.flush()
    counted = [_statistics(model, context.metrics.of(model)) for model in models]
    return as_json({"model_stats": counted})


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


# ---- inference


def infer(context: Context, request: Request, name: str, version: str | None) -> Outcome:
    """One request to one model, from the cache or from a runner."""
    model = context.fleet.find(name, version)
    if context.caches(model) or "content-encoding" in request.headers:
        return _infer_in_steps(context, request, model)
    frame = frame_of(context, request, wire.INFER)
    return Later(Inference(context, model, request, frame), partial(answered, request))


async def _infer_in_steps(context: Context, request: Request, model: Model) -> Response:
    await unpack_body(context, request)
    frame = frame_of(context, request, wire.INFER)
    found = answered(request, await context.ask(model, request, frame))
    return found if isinstance(found, Response) else await found


async def unpack_body(context: Context, request: Request) -> None:
    """A compressed body is replaced by what it holds."""
    plain = await unpack(request, context.settings.max_body)
    if plain is None:
        return
    request.release()
    if len(plain) > context.settings.shm_threshold:
        request.spooled, plain = Path(wire.spill(plain, context.server.spool)), b""
    request.body = plain


def frame_of(context: Context, request: Request, kind: int) -> wire.Frame:
    """The frame for the runner: the form of the body, and where it lies."""
    headers, extra = request.headers, dict[str, Any]()
    size = headers.get("inference-header-content-length")
    if request.spooled is not None:
        extra["spool"] = str(request.spooled)
    form = form_of(headers.get("content-type", "").lower(), _start_of(request), size is not None)
    if form != "v2":
        extra["format"] = form
    if form == "multipart":
        extra["content_type"] = headers["content-type"]
    if request.query:
        extra["query"] = dict(parse_qsl(request.query))
    return wire.Frame(kind, 0, request.body, extra, -1 if size is None else _json_size(size))


def _json_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refusal(400, f"bad Inference-Header-Content-Length {text!r}")
    return int(text)


def _start_of(request: Request) -> bytes:
    if request.spooled is None:
        return bytes(request.body[:16])
    with request.spooled.open("rb") as file:
        return file.read(16)


def form_of(content_type: str, start: bytes, has_json_size: bool) -> str:
    """v2, image, npy or multipart: by the content type, else by the first bytes."""
    if has_json_size or content_type.startswith("application/json"):
        return "v2"
    if content_type.startswith("multipart/form-data"):
        return "multipart"
    if content_type.startswith("image/"):
        return "image"
    if "npy" in content_type or start.startswith(b"\x93NUMPY"):
        return "npy"
    return "image" if start.startswith(_IMAGES) else "v2"


def answered(request: Request, answer: wire.Frame) -> Response | Awaitable[Response]:
    """The runner's answer as HTTP, compressed if the client likes it so."""
    if answer.status != 200:
        raise Refusal(answer.status, answer.extra["error"])
    response = Response(200, answer.body)
    if answer.json_size >= 0:
        response.content_type = "application/octet-stream"
        response.headers.append(("Inference-Header-Content-Length", str(answer.json_size)))
    accepted = request.headers.get("accept-encoding")
    if accepted is None or len(answer.body) < SMALL:
        return response
    return _packed(response, accepted)


async def _packed(response: Response, accepted: str) -> Response:
    packed, name = await pack(bytes(response.body), accepted)
    if name is not None:
        response.body = packed
        response.headers += [("Content-Encoding", name), ("Vary", "Accept-Encoding")]
    return response


async def generate_stream(
    context: Context, request: Request, name: str, version: str | None
) -> Response:
    """A streamed answer: server-sent events, or JSON lines if the client asks for those."""
    model = context.fleet.find(name, version)
    await unpack_body(context, request)
    lines = "application/x-ndjson" in request.headers.get("accept", "")
    pieces = context.stream(model, request, frame_of(context, request, wire.STREAM))
    first = await anext(pieces, None)  # refusals still get their own status

    async def write(sink: Sink) -> None:
        piece = first
        try:
            while piece is not None:
                await sink.write(_line(_event(model, piece), lines))
                piece = await anext(pieces, None)
        except Refusal as refusal:  # the status is sent: the error goes into the stream
            await sink.write(_line({"error": refusal.message}, lines))
        finally:
            await pieces.aclose()

    kind = "application/x-ndjson" if lines else "text/event-stream"
    return Response(200, content_type=kind, stream=write, headers=[("Cache-Control", "no-store")])


def _event(model: Model, piece: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_name": model.name,
        "model_version": model.version,
        **piece["data"],
        "final": piece["final"],
    }


def _line(value: dict[str, Any], lines: bool) -> bytes:
    text = orjson.dumps(value)
    return text + b"\n" if lines else b"data: " + text + b"\n\n"


# ---- the repository


def index(context: Context, request: Request) -> Response:
    found = []
    for name, versions in context.fleet.models.items():
        for version, model in versions.items():
            state = "READY" if context.fleet.is_ready(model) else "UNAVAILABLE"
            reason = str(model.about.get("failure", "")) if state != "READY" else ""
            found.append({"name": name, "version": version, "state": state, "reason": reason})
    wanted = orjson.loads(request.body) if request.body else {}
    if isinstance(wanted, dict) and wanted.get("ready"):
        found = [entry for entry in found if entry["state"] == "READY"]
    return as_json(found)


async def load(context: Context, request: Request, name: str) -> Response:
    """Loads a bundle; `parameters` may give `bundle` (a folder), `version`, `runners`."""
    context.require_admin(request)
    wanted = _parameters(request)
    wanted.pop("config", None)
    model = {"bundle": name, **wanted} if "bundle" not in wanted else {"name": name, **wanted}
    await context.fleet.order("load", model=model)
    await asyncio.wait_for(context.fleet.settled(), context.settings.ready_timeout)
    return Response(200, b"")


async def unload(context: Context, request: Request, name: str) -> Response:
    """Takes a model, or one version of it, out of service."""
    context.require_admin(request)
    version = _parameters(request).get("version")
    context.fleet.find(name, version)
    await context.fleet.order("unload", name=name, version=version)
    return Response(200, b"")


def _parameters(request: Request) -> dict[str, Any]:
    if not request.body:
        return {}
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    found = document.get("parameters", {}) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise Refusal(400, "`parameters` must be an object")
    found.pop("unload_dependents", None)
    return found
