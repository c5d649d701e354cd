"""The source text of classes, for the page."""

import inspect
import textwrap
from typing import Any


def class_source(kind: type) -> dict[str, Any] | None:
    """Text and first line of a class, or None where there is no source to read."""
    try:
        lines, first = inspect.getsourcelines(kind)
    except (OSError, TypeError):
        return None
    return {"text": textwrap.dedent("".join(lines)), "line": first}
