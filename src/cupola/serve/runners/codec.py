"""A request's body -> tensors, and an answer's tensors -> body.

Bodies come in four forms: the protocol's JSON with or without binary tensors behind it, a bare
image, a bare .npy array, and multipart with one part for each input.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import orjson

from cupola.errors import InputError, did_you_mean
from cupola.runtime.predictor import Predictor, TensorSpec
from cupola.serve.ipc import frames as wire
from cupola.serve.runners import tensors
from cupola.serve.runners.multipart import parts_of

Specs: TypeAlias = Mapping[str, TensorSpec]  # a model's inputs by their names


@dataclass(slots=True)
class Request:
    """A parsed request. `outputs` maps asked names to "wants the binary form"."""

    tensors: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    outputs: dict[str, bool] | None = None
    binary: bool = False


def parse(frame: wire.Frame, body: wire.Body, specs: Specs) -> Request:
    """The request that a worker forwarded; InputError says what is wrong with it."""
    request = _parse(frame, memoryview(body), specs)
    check_inputs(request.tensors, specs)
    return request


def _parse(frame: wire.Frame, view: memoryview, specs: Specs) -> Request:
    form = frame.extra.get("format", "v2")
    if form == "v2":
        return _parse_v2(view, frame.json_size, specs)
    query = dict(frame.extra.get("query", {}))
    if form == "multipart":
        found = parts_of(view, frame.extra["content_type"])
        return Request(*_sort_parts(found, specs, query))
    if form == "npy":
        spec = next((spec for spec in specs.values() if spec.datatype != "BYTES"), None)
        if spec is None:
            raise InputError("this model takes no plain array")
        return Request({spec.name: _load_npy(bytes(view), spec.name)}, query)
    spec = _bytes_input(specs)
    return Request({spec.name: tensors.object_array([bytes(view)])}, query)


def _bytes_input(specs: Specs) -> TensorSpec:
    for spec in specs.values():
        if spec.datatype == "BYTES":
            return spec
    raise InputError("this model takes no image or file; send its tensors as JSON")


def _sort_parts(
    found: list[tuple[str, bytes]], specs: Specs, query: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts named like an input are inputs (`file` is the first BYTES one); others parameters."""
    inputs: dict[str, list[bytes]] = {}
    for name, data in found:
        if name in specs:
            inputs.setdefault(name, []).append(data)
        elif name in ("file", "files", "image"):
            inputs.setdefault(_bytes_input(specs).name, []).append(data)
        else:
            query[name] = data.decode("utf-8", "replace")
    arrays: dict[str, Any] = {}
    for name, items in inputs.items():
        if specs[name].datatype == "BYTES":
            arrays[name] = tensors.object_array(items)
        else:
            arrays[name] = _load_npy(items[0], name)
    return arrays, query


def _load_npy(data: bytes, name: str) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InputError(f"input {name!r}: no .npy array: {error}") from None


def _parse_v2(view: memoryview, json_size: int, specs: Specs) -> Request:
    size = len(view) if json_size < 0 else json_size
    if size > len(view):
        raise InputError(f"Inference-Header-Content-Length is {size}, the body {len(view)} bytes")
    try:
        document = orjson.loads(view[:size])
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is no JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InputError("the body must be an object with a list `inputs`")
    found, rest = {}, view[size:]
    for entry in document["inputs"]:
        name, array, rest = _input(entry, rest)
        if name in found:
            raise InputError(f"input {name!r} appears twice")
        found[name] = array
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last binary tensor")
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError("`parameters` must be an object")
    request_id = document.get("id")
    return Request(
        found,
        parameters,
        str(request_id) if request_id not in (None, "") else None,
        _outputs(document, parameters),
        bool(parameters.get("binary_data_output")),
    )


def _input(entry: Any, rest: memoryview) -> tuple[str, Any, memoryview]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError("each input must be an object with a `name`")
    name, parameters = entry["name"], entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError(f"input {name!r}: `parameters` must be an object")
    if any(key.startswith("shared_memory") for key in parameters):
        raise InputError(f"input {name!r}: shared memory regions are not supported")
    shape = tensors.check_shape(entry.get("shape"), name)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise InputError(f"input {name!r}: neither `data` nor `binary_data_size`")
        return name, tensors.from_json(entry["data"], str(entry.get("datatype")), shape, name), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InputError(f"input {name!r}: binary_data_size {size!r} of {len(rest)} bytes left")
    return (
        name,
        tensors.from_bytes(rest[:size], str(entry.get("datatype")), shape, name),
        rest[size:],
    )


def check_inputs(found: Mapping[str, Any], specs: Specs) -> None:
    """Names, datatypes and ranks against what the model declares."""
    for name, array in found.items():
        if (spec := specs.get(name)) is None:
            raise InputError(f"unknown input {name!r}{did_you_mean(name, specs)}")
        datatype = "BF16" if spec.datatype == "BF16" else tensors.datatype_of(array)
        if datatype != spec.datatype:
            raise InputError(f"input {name!r}: expected {spec.datatype}, got {datatype}")
        if not _fits(array.shape, spec.shape):
            raise InputError(f"input {name!r}: expected shape {list(spec.shape)}, "
                             f"got {list(array.shape)}")  # fmt: skip
    for name, spec in specs.items():
        if name not in found and not spec.optional:
            raise InputError(f"input {name!r} is missing")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(want in (-1, have) for want, have in zip(wanted, shape, strict=True))


def _outputs(document: dict[str, Any], parameters: dict[str, Any]) -> dict[str, bool] | None:
    asked = document.get("outputs")
    if not asked:
        return None
    if not isinstance(asked, list):
        raise InputError("`outputs` must be a list")
    default = bool(parameters.get("binary_data_output"))
    found = {}
    for entry in asked:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError("each output must be an object with a `name`")
        wishes = entry.get("parameters") or {}
        if any(key.startswith("shared_memory") for key in wishes):
            raise InputError(f"output {entry['name']!r}: shared memory regions are not supported")
        found[entry["name"]] = bool(wishes.get("binary_data", default))
    return found


def build(request: Request, arrays: Mapping[str, Any], predictor: Predictor) -> tuple[bytes, int]:
    """The answer's body, and the size of its JSON part if binary tensors follow it, else -1."""
    asked = request.outputs or dict.fromkeys(arrays, request.binary)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary in asked.items():
        if name not in arrays:
            raise InputError(f"unknown output {name!r}{did_you_mean(name, arrays)}")
        array = np.asarray(arrays[name])
        entry: dict[str, Any] = {
            "name": name,
            "datatype": tensors.datatype_of(array),
            "shape": list(array.shape),
        }
        if binary:
            tail.append(tensors.to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = tensors.to_json(array)
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": predictor.name, "model_version": predictor.version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = outputs
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *tail]), len(text) if tail else -1
