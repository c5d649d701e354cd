"""Parses request bodies into tensors and builds answers from tensors.

A request body has one of five formats: the protocol's JSON, optionally followed by binary tensors;
its message of gRPC; an image file; a .npy array; or multipart with one part per input.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import orjson

from cupola.errors import InputError, did_you_mean
from cupola.runtime.predictor import Predictor, TensorSpec
from cupola.serve.grpc.messages import parse as parse_message
from cupola.serve.http.multipart import parse_multipart
from cupola.serve.ipc.frames import Body, Frame
from cupola.serve.runners import grpc_codec, tensors

Specs: TypeAlias = Mapping[str, TensorSpec]  # a model's inputs by name


@dataclass(slots=True)
class ParsedRequest:
    """A request. `outputs` maps the requested names to whether they are wanted in binary."""

    tensors: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    outputs: dict[str, bool] | None = None
    binary: bool = False
    grpc: bool = False


def parse(frame: Frame, body: Body, specs: Specs) -> ParsedRequest:
    """Parses and validates a forwarded request; InputError if it is invalid."""
    request = _parse(frame, memoryview(body), specs)
    check_inputs(request.tensors, specs)
    return request


def _parse(frame: Frame, view: memoryview, specs: Specs) -> ParsedRequest:
    body_format = frame.extra.get("format", "v2")
    if body_format == "v2":
        return _parse_v2(view, frame.json_size, specs)
    if body_format == "grpc":
        return _parse_grpc(view)
    query = dict(frame.extra.get("query", {}))
    if body_format == "multipart":
        parts = parse_multipart(view, frame.extra["content_type"])
        return ParsedRequest(*_sort_parts(parts, specs, query))
    if body_format == "npy":
        spec = next((spec for spec in specs.values() if spec.datatype != "BYTES"), None)
        if spec is None:
            raise InputError("this model does not accept a plain array")
        return ParsedRequest({spec.name: _load_npy(bytes(view), spec.name)}, query)
    spec = _bytes_input(specs)
    return ParsedRequest({spec.name: tensors.object_array([bytes(view)])}, query)


def _parse_grpc(view: memoryview) -> ParsedRequest:
    found = parse_message("ModelInferRequest", view)
    inputs, parameters = grpc_codec.inputs_of(found), grpc_codec.parameters_of(found)
    outputs = grpc_codec.requested_outputs(found)
    return ParsedRequest(inputs, parameters, found.id or None, outputs, grpc=True)


def _bytes_input(specs: Specs) -> TensorSpec:
    for spec in specs.values():
        if spec.datatype == "BYTES":
            return spec
    raise InputError("this model does not accept an image or file; send its tensors as JSON")


def _sort_parts(
    parts: list[tuple[str, bytes]], specs: Specs, query: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and parameters. Parts named like an input (or `file`, for the first BYTES input)
    are inputs; the others are parameters.
    """
    inputs: dict[str, list[bytes]] = {}
    for name, data in parts:
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
    if data.startswith(b"PK"):
        raise InputError(f"input {name!r}: an archive of arrays, expected one .npy array")
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # its header is a Python literal, which can fail in many ways
        raise InputError(f"input {name!r}: not a .npy array: {error}") from None


def _parse_v2(view: memoryview, json_size: int, specs: Specs) -> ParsedRequest:
    size = len(view) if json_size < 0 else json_size
    if size > len(view):
        raise InputError(f"Inference-Header-Content-Length is {size}, the body {len(view)} bytes")
    try:
        document = orjson.loads(view[:size])
    except orjson.JSONDecodeError as error:
        raise InputError(f"request body is not valid JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InputError("request body must be an object with a list `inputs`")
    found, rest = {}, view[size:]
    for entry in document["inputs"]:
        name, array, rest = _parse_input(entry, rest)
        if name in found:
            raise InputError(f"input {name!r} appears twice")
        found[name] = array
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last binary tensor")
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError("`parameters` must be an object")
    request_id = document.get("id")
    return ParsedRequest(
        found,
        parameters,
        str(request_id) if request_id not in (None, "") else None,
        _requested_outputs(document, parameters),
        bool(parameters.get("binary_data_output")),
    )


def _parse_input(entry: Any, rest: memoryview) -> tuple[str, Any, memoryview]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError("each input must be an object with a `name`")
    name, parameters = entry["name"], _options_of("input", entry)
    datatype = str(entry.get("datatype"))
    shape = tensors.check_shape(entry.get("shape"), name)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise InputError(f"input {name!r} has neither `data` nor `binary_data_size`")
        return name, tensors.from_json(entry["data"], datatype, shape, name), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InputError(
            f"input {name!r}: binary_data_size is {size!r}, but {len(rest)} bytes are left"
        )
    return name, tensors.from_bytes(rest[:size], datatype, shape, name), rest[size:]


def check_inputs(found: Mapping[str, Any], specs: Specs) -> None:
    """Checks names, datatypes and shapes against the model's inputs."""
    for name, array in found.items():
        if (spec := specs.get(name)) is None:
            raise InputError(f"unknown input {name!r}{did_you_mean(name, specs)}")
        datatype = "BF16" if spec.datatype == "BF16" else tensors.datatype_of(array)
        if datatype != spec.datatype:
            raise InputError(f"input {name!r}: expected {spec.datatype}, got {datatype}")
        batched = spec.batch_of_one and array.shape[:1] == (1,)
        if not _fits(array.shape, spec.shape) and not (
            batched and _fits(array.shape[1:], spec.shape)
        ):
            raise InputError(f"input {name!r}: expected shape {list(spec.shape)}, "
                             f"got {list(array.shape)}")  # fmt: skip
    for name, spec in specs.items():
        if name not in found and not spec.optional:
            raise InputError(f"input {name!r} is missing")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(want in (-1, have) for want, have in zip(wanted, shape, strict=True))


def _requested_outputs(
    document: dict[str, Any], parameters: dict[str, Any]
) -> dict[str, bool] | None:
    requested = document.get("outputs")
    if not requested:
        return None
    if not isinstance(requested, list):
        raise InputError("`outputs` must be a list")
    default = bool(parameters.get("binary_data_output"))
    found = {}
    for entry in requested:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError("each output must be an object with a `name`")
        options = _options_of("output", entry)
        found[entry["name"]] = bool(options.get("binary_data", default))
    return found


def _options_of(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    tensor, options = f"{kind} {entry['name']!r}", entry.get("parameters") or {}
    if not isinstance(options, dict):
        raise InputError(f"{tensor}: `parameters` must be an object")
    tensors.check_options(tensor, options)
    return options


def build(
    request: ParsedRequest, arrays: Mapping[str, Any], predictor: Predictor
) -> tuple[bytes, int]:
    """The body of the answer, and the size of its JSON part; -1 without binary tensors."""
    requested = request.outputs or dict.fromkeys(arrays, request.binary)
    if request.grpc:
        model = predictor.name, predictor.version
        return grpc_codec.build_message(request.id, requested, arrays, model), -1
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary in requested.items():
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
