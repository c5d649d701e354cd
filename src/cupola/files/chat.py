"""The chat template of a folder, which is an untrusted program, rendered in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cupola.errors import BundleError, InputError
from cupola.files.opening import read_json, read_text

LARGEST = 1 << 20  # bytes of a template
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class ChatTemplate:
    """A template as tokenizer_config.json has it, with the special tokens that it may use."""

    def __init__(self, text: str, special: Mapping[str, str], path: Path) -> None:
        if len(text) > LARGEST:
            raise BundleError(f"{path}: its chat_template has {len(text)} characters")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(str(form))
        try:
            self._template = environment.from_string(text)
        except (TemplateError, RecursionError) as error:
            raise BundleError(f"{path}: its chat_template is not usable ({error})") from None
        self._special = dict(special)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for the next turn; InputError where the template refuses the messages."""
        try:
            return self._template.render(
                messages=[dict(each) for each in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special,
            )
        except Exception as error:  # a template can fail in any way
            raise InputError(f"messages: refused by the chat template ({error})") from None


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The folder's chat_template.jinja, or that of its tokenizer_config.json, if there is one."""
    path = folder / "tokenizer_config.json"
    config = read_json(path, error=BundleError) if path.is_file() else {}
    config = config if isinstance(config, Mapping) else {}
    text = config.get("chat_template")
    if isinstance(text, list):  # several, by their names
        named = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
        text = named.get("default")
    own = folder / "chat_template.jinja"
    if own.is_file():
        path, text = own, read_text(own, LARGEST, BundleError)
    if not isinstance(text, str):
        return None
    special = {name: _content(config.get(name)) for name in SPECIAL if config.get(name)}
    return ChatTemplate(text, special, path)


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: object) -> None:
    raise TemplateError(str(message))
