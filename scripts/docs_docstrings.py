"""A griffe extension: docstrings are plain text with code spans, so `[B, C]` is not a link."""

import re
from typing import Any

from griffe import Extension, Object

SPECIAL = re.compile(r"(``.*?``|`[^`]*`)|([\[\]*<])", flags=re.S)


class PlainDocstrings(Extension):
    """Escapes what Markdown would interpret outside code spans."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = SPECIAL.sub(lambda m: m[1] or f"\\{m[2]}", obj.docstring.value)
