"""The chat template of a folder, which is an untrusted program, rendered in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cupola.errors import BundleError, InputError
from cupola.files.opening import read_settings, read_text

LARGEST = 1 << 20  # bytes of a template
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class CallFormat:
    """How a model writes the call of a function: begin, its name, middle, its arguments, end.

    trigger: the part of `begin` after which a call has certainly begun. leading: calls stand at the
    beginning of an answer or not at all. again: the begin of further calls [the same]. close: what
    follows the last call. id_size: characters of a call's id that the template accepts.
    """

    begin: str
    middle: str
    end: str
    between: str
    trigger: str
    leading: bool = False
    again: str = ""
    close: str = ""
    id_size: int = 24


# Hermes, Qwen and others write JSON in tags, Llama 3 plain JSON.
TAGS = CallFormat(
    '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", "<tool_call>"
)
PLAIN = CallFormat('{"name": "', '", "parameters": ', "}", "; ", '{"name": "', leading=True)
# Mistral writes one list of JSON, later a token before the name and one before the arguments.
LIST = CallFormat(
    '[TOOL_CALLS][{"name": "', '", "arguments": ', "}", ", ", "[TOOL_CALLS]",
    again='{"name": "', close="]", id_size=9,
)  # fmt: skip
MARKS = CallFormat("[TOOL_CALLS]", "[ARGS]", "", "", "[TOOL_CALLS]", id_size=9)


class ChatTemplate:
    """A template as tokenizer_config.json has it, with the special tokens that it may use.

    `with_tools` is the text of another one for requests with tools, if there is one.
    """

    def __init__(
        self, text: str, special: Mapping[str, str], path: Path, with_tools: str | None = None
    ) -> None:
        size = max(len(text), len(with_tools or ""))
        if size > LARGEST:
            raise BundleError(f"{path}: its chat_template has {size} characters")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(str(form))
        try:
            self._template = environment.from_string(text)
            self._with_tools = environment.from_string(with_tools or text)
            names = meta.find_undeclared_variables(environment.parse(with_tools or text))
        except (TemplateError, RecursionError) as error:
            raise BundleError(f"{path}: its chat_template is not usable ({error})") from None
        self._special = dict(special)
        self.call_format = _call_format(with_tools or text) if "tools" in names else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for the next turn; InputError where the template refuses the messages.

        tools: as OpenAI's API has them. settings: variables of this template alone.
        """
        values: dict[str, Any] = {**self._special, "add_generation_prompt": True}
        values["documents"] = None
        values |= {**(settings or {}), "tools": list(tools) if tools else None}
        try:
            template = self._with_tools if tools else self._template
            return template.render({**values, "messages": [dict(each) for each in messages]})
        except Exception as error:  # a template can fail in any way
            raise InputError(f"messages: refused by the chat template ({error})") from None


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The folder's chat_template.jinja, or that of its tokenizer_config.json, if there is one."""
    path = folder / "tokenizer_config.json"
    config = read_settings(path, BundleError) if path.is_file() else {}
    config = config if isinstance(config, Mapping) else {}
    text = config.get("chat_template")
    with_tools = None
    if isinstance(text, list):  # several, by their names
        named = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
        text, with_tools = named.get("default"), named.get("tool_use")
    own = folder / "chat_template.jinja"
    if own.is_file():
        path, text, with_tools = own, read_text(own, LARGEST, BundleError), None
    if not isinstance(text, str):
        return None
    special = {name: _content(config.get(name)) for name in SPECIAL if config.get(name)}
    return ChatTemplate(text, special, path, with_tools if isinstance(with_tools, str) else None)


def _call_format(text: str) -> CallFormat:
    if "[TOOL_CALLS]" in text:
        spaced = replace(LIST, begin=LIST.begin.replace("][", "] ["))
        return MARKS if "[ARGS]" in text else spaced if "[TOOL_CALLS] [" in text else LIST
    is_plain = "<tool_call>" not in text and '"parameters"' in text and "python" in text
    return PLAIN if is_plain else TAGS


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: object) -> None:
    raise TemplateError(str(message))
