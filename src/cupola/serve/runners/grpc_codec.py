"""Parses ModelInferRequest into tensors and builds ModelInferResponse, in the runner.

The numbers and texts of `contents` are checked like those of JSON. Outputs are always raw.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cupola.errors import InputError, did_you_mean
from cupola.serve.grpc.wire import field, varint
from cupola.serve.runners import tensors

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip


def inputs_of(request: Any) -> dict[str, Any]:
    """The input tensors by name; InputError if one is malformed."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one for each"
        )
    found: dict[str, Any] = {}
    for number, tensor in enumerate(request.inputs[:]):
        if tensor.name in found:
            raise InputError(f"input {tensor.name!r} appears twice")
        tensors.check_options(f"input {tensor.name!r}", tensor.parameters or ())
        shape = tensors.check_shape(tensor.shape[:], tensor.name)
        if not raw:
            found[tensor.name] = _from_contents(tensor, shape)
        elif tensor.HasField("contents"):
            raise InputError(f"input {tensor.name!r}: both contents and raw_input_contents")
        else:
            view = memoryview(raw[number])
            found[tensor.name] = tensors.from_bytes(view, tensor.datatype, shape, tensor.name)
    return found


def _from_contents(tensor: Any, shape: tuple[int, ...]) -> Any:
    name, datatype = tensor.name, tensor.datatype
    tensors.dtype_named(datatype, name)
    place = _CONTENTS.get(datatype)
    if place is None:
        raise InputError(f"input {name!r}: {datatype} is supported in raw_input_contents only")
    others = [found.name for found, _ in tensor.contents.ListFields() if found.name != place]
    if others:
        raise InputError(f"input {name!r}: {datatype} belongs in {place}, not in {others[0]}")
    values = getattr(tensor.contents, place)
    if datatype == "BYTES":
        flat = tensors.object_array(list(values))
        if flat.size != int(np.prod(shape, dtype=object)):
            raise InputError(f"input {name!r}: shape {list(shape)} but {flat.size} elements")
        return flat.reshape(shape)
    return tensors.from_json(list(values), datatype, shape, name)


def parameters_of(request: Any) -> dict[str, Any]:
    """The parameters of a request."""
    found = request.parameters
    return {name: _value(each) for name, each in found.items()} if found else {}


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen else None


def requested_outputs(request: Any) -> dict[str, bool] | None:
    """The names of the outputs that are asked for; None: all."""
    if not request.outputs:
        return None
    for output in request.outputs:
        tensors.check_options(f"output {output.name!r}", output.parameters or ())
    return {output.name: True for output in request.outputs}


def build_message(
    request_id: str | None,
    requested: Mapping[str, bool],
    arrays: Mapping[str, Any],
    model: tuple[str, str],
) -> bytes:
    """A serialized ModelInferResponse with the requested arrays. InputError for unknown ones."""
    parts = [*field(1, model[0].encode()), *field(2, model[1].encode())]
    if request_id is not None:
        parts += field(3, request_id.encode())
    raw: list[bytes] = []
    for name in requested:
        if name not in arrays:
            raise InputError(f"unknown output {name!r}{did_you_mean(name, arrays)}")
        array = np.asarray(arrays[name])
        output = [*field(1, name.encode()), *field(2, tensors.datatype_of(array).encode())]
        output += field(3, b"".join(map(varint, array.shape)))
        parts += field(5, b"".join(output))
        raw += field(6, tensors.to_bytes(array))
    return b"".join(parts + raw)
