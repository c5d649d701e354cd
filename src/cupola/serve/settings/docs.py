"""Generates docs/settings.md: python -m cupola.serve.settings.docs > docs/settings.md"""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cupola.serve.settings.access import ApiKey, Limits
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.settings import Settings

HEAD = """# Server settings

[中文](settings.zh-CN.md)

Generated from [`Settings`](../src/cupola/serve/settings/settings.py) by
`python -m cupola.serve.settings.docs`; do not edit.

Settings are read from a TOML or YAML file (`cupola serve --settings FILE`), from environment
variables `CUPOLA_NAME`, and from the command line (`--set NAME=VALUE`); later sources win.
`cupola check -c FILE` tests a file and reports the line of an error; `cupola check -c FILE --dump`
prints all values. Times are in seconds, sizes in bytes.
"""


def document() -> str:
    """The text of the page."""
    return "\n".join(
        [HEAD, *_table(Settings), "", "## Settings of a model", "", "An entry of `models`:", "",
         *_table(ModelSettings), "", "## Settings of an API key", "", "An entry of `api_keys`:", "",
         *_table(ApiKey), "", "## Limits", "", "`client_limits`, and `limits` of an API key:", "",
         *_table(Limits), ""]
    )  # fmt: skip


def _table(kind: type[BaseModel]) -> list[str]:
    rows = ["| setting | type | default | description |", "|---|---|---|---|"]
    for name, info in kind.model_fields.items():
        rows.append(
            f"| `{name}` | {_type(info.annotation)} | {_default(info)} | {info.description} |"
        )
    return rows


def _type(annotation: Any) -> str:
    """A type as it reads in a table: int, "a" or "b", list[str], str or None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(_type, arguments))
    if arguments:
        return f"{origin.__name__}[{', '.join(map(_type, arguments))}]"
    return "unset" if annotation is NoneType else str(annotation.__name__)


def _default(info: Any) -> str:
    value = info.default
    if value is PydanticUndefined:
        value = info.default_factory() if info.default_factory else None
        if value is None:
            return "required"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, BaseModel):
        return ""
    return "" if value in (None, [], {}) else f"`{value}`"


if __name__ == "__main__":
    print(document(), end="")
