"""Where a class or function is defined: its file, relative to its package, and its line."""

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any


def source_path(maker: Any) -> Path | None:
    """The file of a class or function, or None if it has none."""
    module = sys.modules.get(getattr(maker, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def source_file(maker: Any) -> str:
    """The file, beginning with its outermost package: ``cupola/models/detr/head.py``."""
    path = source_path(maker)
    return short_path(path, maker.__module__) if path else str(getattr(maker, "__module__", "?"))


def short_path(path: Path, module: str) -> str:
    """The file of a module, beginning with its outermost package."""
    depth = module.count(".") + (2 if path.name == "__init__.py" else 1)
    return "/".join(path.parts[-depth:])


def source_line(maker: Any) -> int | None:
    """The line of the definition, counted from 1; None if unknown."""
    code = getattr(maker, "__code__", None)
    if code is not None:
        return int(code.co_firstlineno)
    path = source_path(maker)
    return _definitions(path).get(getattr(maker, "__name__", "")) if path else None


@lru_cache(maxsize=512)
def _definitions(path: Path) -> dict[str, int]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, int] = {}
    for match in re.finditer(r"^[ \t]*class[ \t]+(\w+)", text, re.MULTILINE):
        found.setdefault(match[1], text.count("\n", 0, match.start(1)) + 1)
    return found


@lru_cache(maxsize=4096)
def source_location(maker: Any) -> str:
    """``cupola/models/detr/head.py:55``, without the line if it is unknown."""
    line = source_line(maker)
    return source_file(maker) + (f":{line}" if line else "")
