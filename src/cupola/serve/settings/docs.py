"""Prints docs/settings.md from the declarations: python -m cupola.serve.settings.docs."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cupola.serve.settings.settings import ModelSettings, Settings

HEAD = """# Settings of the server

Generated from [`Settings`](../src/cupola/serve/settings/settings.py) by
`python -m cupola.serve.settings.docs`; do not edit.

A setting stands in a TOML or YAML file (`cupola serve --settings FILE`), in the environment as
`CUPOLA_NAME`, or on the command line as `--set NAME=VALUE`; later ones win. `cupola check -c FILE`
tests a file and names the line of an error, `cupola check -c FILE --dump` prints every value.
Times are seconds, sizes are bytes.
"""


def document() -> str:
    """The whole page."""
    return "\n".join(
        [HEAD, *_table(Settings), "", "## A model", "", "An entry of `models`:", "",
         *_table(ModelSettings), ""]
    )  # fmt: skip


def _table(kind: type[BaseModel]) -> list[str]:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, info in kind.model_fields.items():
        rows.append(
            f"| `{name}` | {_type(info.annotation)} | {_default(info)} | {info.description} |"
        )
    return rows


def _type(annotation: Any) -> str:
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else ""
    text = text if text and "[" not in str(annotation) else str(annotation)
    for module in ("typing.", "pathlib._local.", "pathlib.", "cupola.serve.settings.settings."):
        text = text.replace(module, "")
    while "Annotated[" in text:
        start = text.index("Annotated[")
        depth, end = 0, start + len("Annotated")
        while True:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        inner = text[start + len("Annotated[") : end - 1].split(",")[0]
        text = text[:start] + inner + text[end:]
    return text.replace("|", "or").replace("NoneType", "None")


def _default(info: Any) -> str:
    value = info.default
    if value is PydanticUndefined:
        value = info.default_factory() if info.default_factory else None
        if value is None:
            return "required"
    if isinstance(value, Path):
        value = str(value)
    return "" if value in (None, [], {}) else f"`{value}`"


if __name__ == "__main__":
    print(document(), end="")
