"""The last check of a config that has been read: it holds data, and nothing else."""

import re
from pathlib import Path
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dicts import ConfigDict
from cupola.config.functions import Module
from cupola.config.streams import Stream
from cupola.errors import ConfigError

_DATA = frozenset({bool, float, complex, type(None), bytes, range})
_NAMES = {Stream: "an iterator", Module: "a module", type(...): "an ellipsis"}
_LISTS = (list, tuple, set, frozenset)
_SURROGATE = re.compile("[\ud800-\udfff]")


def vet(made: ConfigDict, file: Path) -> None:
    """ConfigError with the place and the path of the first value that is not data.

    Data are texts that can be encoded, numbers, None, bytes, ranges, and dicts, lists, tuples and
    sets of them. Functions, iterators and dates are not.
    """
    if _is_common(made):
        return
    for name, value in made.items():
        problem = _problem(name, "", True) or _problem(value, name)
        if problem:
            where = made.origins.get(name) or f"{file}:1"
            raise ConfigError(f"{where}: {problem}")


def _is_common(made: ConfigDict) -> bool:
    """Whether a quick look finds only what nearly all configs hold."""
    stack: list[Any] = [made]
    while stack:
        item = stack.pop()
        for each in (*item, *item.values()) if type(item) is ConfigDict else item:
            kind = type(each)
            if kind is str:
                if not each.isascii():
                    return False
            elif kind is int:
                if not -(2**63) < each < 2**63:
                    return False
            elif kind is ConfigDict or kind is list or kind is tuple:
                stack.append(each)
            elif kind not in _DATA:
                return False
    return True


def _problem(value: Any, path: str, is_key: bool = False) -> str | None:
    """What is wrong with a value of the config, or with a part of it."""
    kind = type(value)
    if kind is str:
        if value.isascii() or not _SURROGATE.search(value):
            return None
        return f"{path or value!r} holds half a surrogate pair, which is not text"
    if kind in _DATA:
        return None
    if kind is int:
        too_long = value.bit_length() > Budget.max_bits
        return f"{path} is an integer of more than {Budget.max_bits} bits" if too_long else None
    if isinstance(value, dict) and not is_key:
        for key, item in value.items():
            inner = f"{path}.{key}" if type(key) in (str, int) else f"{path}.{key!r:.40}"
            if problem := _problem(key, f"a key of {path}", True) or _problem(item, inner):
                return problem
        return None
    if isinstance(value, _LISTS):
        for index, item in enumerate(value):
            if problem := _problem(item, f"{path}.{index}", is_key):
                return problem
        return None
    what = _NAMES.get(kind) or f"a {kind.__name__}"
    if callable(value):
        what = f"the function {getattr(value, '__name__', '').lstrip('_')!r}"
    advice = "; put it in quotes" if callable(value) or kind.__module__ == "datetime" else ""
    return f"{path} is {what}, which is not data{advice}"
