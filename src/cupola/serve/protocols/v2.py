"""Open Inference Protocol v2 over REST, with Triton's repository, config and statistics.

Bodies go to the runner as they came (it holds the tensors); here only headers are judged.
"""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

import cupola
from cupola.serve import wire
from cupola.serve.compression import pack, unpack
from cupola.serve.context import Context
from cupola.serve.http import Refusal, Request, Response, Stream
from cupola.serve.links import Model

EXTENSIONS = [
    "binary_tensor_data", "model_repository", "model_repository(unload_dependents)",
    "model_configuration", "statistics",
]  # fmt: skip
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
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
    return as_json({"model_stats": [_statistics(model) for model in models]})


def _statistics(model: Model) -> dict[str, Any]:
    kept = model.statistics

    def duration(name: str) -> dict[str, int]:
        return {"count": kept.get("success", 0), "ns": int(kept.get(name, 0.0) * 1e9)}

    good = kept.get("success", 0)
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": int(kept.get("last", 0.0) * 1000),
        "inference_count": kept.get("samples", 0),
        "execution_count": kept.get("success", 0),
        "inference_stats": {
            "success": {"count": good, "ns": int(kept.get("total", 0.0) * 1e9)},
            "fail": {"count": kept.get("fail", 0), "ns": 0},
            "queue": duration("queue"),
            "compute_input": duration("batch"),
            "compute_infer": duration("run"),
            "compute_output": duration("encode"),
            "cache_hit": {"count": kept.get("hits", 0), "ns": 0},
            "cache_miss": {"count": kept.get("misses", 0), "ns": 0},
        },
        "batch_stats": [],
    }


# ---- inference


async def infer(context: Context, request: Request, name: str, version: str | None) -> Response:
    """One request to one model, from the cache or from a runner."""
    model = context.fleet.find(name, version)
    header, body = await forwarded(context, request)
    timeout = context.timeout_of(request)
    answer, content = await context.ask(model, request, header, body, timeout)
    return await answered(request, answer, content)


async def forwarded(context: Context, request: Request) -> tuple[dict[str, Any], wire.Body]:
    """The frame for the runner: the form of the body, and where it lies."""
    settings = context.settings
    body: wire.Body = request.body
    plain = await unpack(request, settings.max_body)
    header: dict[str, Any] = {}
    if plain is not None:
        body = plain
        if len(body) > settings.shm_threshold:
            header["spool"], body = wire.spill(body, context.server.spool), b""
            context.spooled(request, header["spool"])
    elif request.spooled is not None:
        header["spool"] = str(request.spooled)
    content_type = request.headers.get("content-type", "").lower()
    start = bytes(body[:16]) or _head_of(header)
    header["format"] = form_of(content_type, start, "inference-header-content-length" in
                               request.headers)  # fmt: skip
    if header["format"] == "multipart":
        header["content_type"] = request.headers["content-type"]
    if request.query:
        header["query"] = dict(parse_qsl(request.query))
    if (size := request.headers.get("inference-header-content-length")) is not None:
        if not (size.isascii() and size.isdigit() and len(size) < 16):
            raise Refusal(400, f"bad Inference-Header-Content-Length {size!r}")
        header["json_size"] = int(size)
    return header, body


def _head_of(header: dict[str, Any]) -> bytes:
    if "spool" not in header:
        return b""
    with Path(header["spool"]).open("rb") as file:
        return file.read(16)


def form_of(content_type: str, start: bytes, has_json_size: bool) -> str:
    """v2, picture, npy or multipart: by the content type, else by the first bytes."""
    if has_json_size or content_type.startswith("application/json"):
        return "v2"
    if content_type.startswith("multipart/form-data"):
        return "multipart"
    if content_type.startswith("image/"):
        return "picture"
    if "npy" in content_type or start.startswith(b"\x93NUMPY"):
        return "npy"
    return "picture" if start.startswith(_PICTURES) else "v2"


async def answered(request: Request, answer: dict[str, Any], content: wire.Body) -> Response:
    """The runner's answer as HTTP, compressed if the client likes it so."""
    if answer["status"] != 200:
        raise Refusal(answer["status"], answer["error"])
    response = Response(200, content)
    if answer.get("json_size") is not None:
        response.content_type = "application/octet-stream"
        response.headers.append(("Inference-Header-Content-Length", str(answer["json_size"])))
    if accepted := request.headers.get("accept-encoding"):
        packed, name = await pack(bytes(content), accepted)
        if name is not None:
            response.body = packed
            response.headers += [("Content-Encoding", name), ("Vary", "Accept-Encoding")]
    return response


async def generate_stream(
    context: Context, request: Request, name: str, version: str | None
) -> Response:
    """A streamed answer: server-sent events, or JSON lines if the client asks for those."""
    model = context.fleet.find(name, version)
    header, body = await forwarded(context, request)
    lines = "application/x-ndjson" in request.headers.get("accept", "")
    frames = context.stream(model, request, header, body, context.timeout_of(request))
    first = await anext(frames, None)  # refusals still get their own status

    async def write(stream: Stream) -> None:
        frame = first
        try:
            while frame is not None:
                await stream.write(_piece(_event(model, frame), lines))
                frame = await anext(frames, None)
        except Refusal as refusal:  # the status is sent: the error goes into the stream
            await stream.write(_piece({"error": refusal.message}, lines))
        finally:
            await frames.aclose()

    kind = "application/x-ndjson" if lines else "text/event-stream"
    return Response(200, content_type=kind, stream=write, headers=[("Cache-Control", "no-store")])


def _event(model: Model, frame: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_name": model.name,
        "model_version": model.version,
        **frame["data"],
        "final": frame["final"],
    }


def _piece(value: dict[str, Any], lines: bool) -> bytes:
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
