"""The nesting of a network's results, kept beside its graph: a later start need not run the model.

JSON holds tuples, lists, dicts, named tuples by the name of their class, tensors, and constants. A
class is looked up among the modules that the model has imported; nothing is imported by name.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from cupola.files import read_json
from cupola.runtime.optimize.network import EngineUnavailableError

NOTHING: Any = None
CONSTANTS = (type(None), bool, int, float, str)


def described(answer: Any) -> Any:
    """The nesting of a result as JSON data; EngineUnavailableError if it cannot be described."""
    if isinstance(answer, Tensor):
        return {"tensor": True}
    if isinstance(answer, CONSTANTS):
        return {"constant": answer}
    if isinstance(answer, tuple) and hasattr(answer, "_fields"):
        kind = type(answer)
        named = [kind.__module__, kind.__qualname__]
        return {"class": named, "parts": [described(each) for each in answer]}
    if type(answer) in (tuple, list):
        return {type(answer).__name__: [described(each) for each in answer]}
    if type(answer) is dict and all(isinstance(key, str) for key in answer):
        return {"dict": {key: described(each) for key, each in answer.items()}}
    raise EngineUnavailableError(
        f"the network returns a {type(answer).__name__}, not tuples, lists or dicts of tensors"
    )


def assembled(nesting: Any, tensors: Iterator[Tensor]) -> Any:
    """The result of that nesting with the tensors in their order."""
    (kind, value), *more = nesting.items()
    if kind == "tensor":
        return next(tensors)
    if kind == "constant":
        return value
    if kind == "class":
        parts = [assembled(each, tensors) for each in dict(more)["parts"]]
        return _class(*value)(*parts)
    if kind == "dict":
        return {key: assembled(each, tensors) for key, each in value.items()}
    parts = [assembled(each, tensors) for each in value]
    return parts if kind == "list" else tuple(parts)


def tensors_of(answer: Any) -> tuple[Tensor, ...]:
    """The tensors of a result, in the order in which `assembled` takes them."""
    if isinstance(answer, Tensor):
        return (answer,)
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    parts = answer if isinstance(answer, tuple | list) else ()
    return tuple(tensor for each in parts for tensor in tensors_of(each))


def _class(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise EngineUnavailableError(f"the class of the results, {module}.{name}, is not there")
    return found


def write(path: Path, nesting: Any) -> None:
    """Writes a nesting."""
    path.write_text(json.dumps(nesting))


def read(path: Path) -> Any:
    """What `write` has written; EngineUnavailableError if it is damaged."""
    try:
        nesting = read_json(path, error=EngineUnavailableError)
        assembled(nesting, itertools.repeat(NOTHING))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise EngineUnavailableError(f"{path}: damaged ({error})") from None
    return nesting
