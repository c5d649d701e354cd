"""The sequence of a request to a stateful model: a worker sends all of one to the same runner.

Only requests to stateful models are read for it. What is malformed has no sequence here; the
runner refuses it.
"""

import mmap
from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

from cupola.errors import InputError
from cupola.serve.http.messages import HTTPError, Request
from cupola.serve.ipc.sequence import ID, NAMES, SequenceStep, read_sequence

Data: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"


def sequence_of(request: Request, extra: Mapping[str, Any], json_size: int) -> SequenceStep | None:
    """The step of a sequence, from the JSON, the form or the query; else None.

    `extra` and `json_size` are those of the frame. HTTPError 400 for what is no id or no flag.
    """
    body_format = extra.get("format", "v2")
    try:
        if body_format == "v2":
            return read_sequence(_json_parameters(request, json_size))
        found = dict(extra.get("query", {}))
        if body_format == "multipart":
            found |= _form_parameters(request, extra["content_type"])
        return read_sequence(found)
    except InputError as error:
        raise HTTPError(400, str(error)) from None


def _data(request: Request) -> Data:
    if request.spooled is None:
        return request.body
    with request.spooled.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _json_parameters(request: Request, json_size: int) -> Mapping[str, Any]:
    if not (request.body or request.spooled):
        return {}
    with memoryview(_data(request)) as view:
        text = view if json_size < 0 else view[:json_size]
        if ID.encode() not in bytes(text):
            return {}
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return {}
        finally:
            text.release()
    parameters = document.get("parameters") if isinstance(document, dict) else None
    return parameters if isinstance(parameters, dict) else {}


def _form_parameters(request: Request, content_type: str) -> Mapping[str, Any]:
    from cupola.serve.http.multipart import parse_multipart

    try:
        with memoryview(_data(request)) as view:
            parts = parse_multipart(view, content_type)
    except InputError:
        return {}
    return {name: data.decode("utf-8", "replace") for name, data in parts if name in NAMES}
