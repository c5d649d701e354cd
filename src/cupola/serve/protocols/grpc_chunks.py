"""The chunks of a streamed answer as ModelInferResponse. No numpy is needed for them."""

import struct
from collections.abc import Iterator
from typing import Any

import orjson

from cupola.serve.grpc.messages import message
from cupola.serve.worker.runner_connections import Model

_NUMBERS = {"FP32": "f", "FP64": "d", "INT64": "q", "INT32": "i", "BOOL": "?"}


def response_of(model: Model, request_id: str, chunk: dict[str, Any]) -> bytes:
    """The serialized response: one output for each value, which is null if it is left out."""
    answer = message("ModelInferResponse")(
        model_name=model.name, model_version=model.version, id=request_id
    )
    answer.parameters["triton_final_response"].bool_param = chunk["final"]
    declared = {spec["name"]: spec["datatype"] for spec in model.description.get("outputs", ())}
    for name, value in chunk["data"].items():
        if value is not None:
            datatype, shape, raw = _tensor(value, declared.get(name))
            answer.outputs.add(name=name, datatype=datatype, shape=shape)
            answer.raw_output_contents.append(raw)
    data: bytes = answer.SerializeToString()
    return data


def _tensor(value: Any, declared: str | None) -> tuple[str, list[int], bytes]:
    """Datatype, shape and raw content: texts as BYTES, numbers as declared, else INT64 or FP32."""
    shape, flat = _flatten(value)
    kinds = {type(item) for item in flat}
    if kinds and kinds <= {int, float, bool}:
        found = "BOOL" if kinds == {bool} else "FP32" if float in kinds else "INT64"
        datatype = declared if declared in _NUMBERS else found
        try:
            return datatype, shape, struct.pack(f"<{len(flat)}{_NUMBERS[datatype]}", *flat)
        except (struct.error, OverflowError):  # not of the declared type
            return "FP64", shape, struct.pack(f"<{len(flat)}d", *flat)
    if kinds == {str}:
        texts = [text.encode() for text in flat]
    else:
        shape, texts = [1], [orjson.dumps(value)]
    return "BYTES", shape, b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _flatten(value: Any) -> tuple[list[int], list[Any]]:
    """The shape and the items of nested lists of equal lengths; else one item."""
    if not isinstance(value, list):
        return [1], [value]
    shape, level = [], value
    while level and all(isinstance(item, list) for item in level):
        sizes = {len(item) for item in level}
        if len(sizes) != 1:
            return [1], [value]
        shape.append(len(level))
        level = level[0]
    return [*shape, len(level)], list(_items(value))


def _items(value: Any) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list):
            yield from _items(item)
        else:
            yield item
