"""Grammars for what a request wants of its text: JSON, a pattern, a choice, calls of tools.

They are in llguidance's variant of Lark. A grammar comes from a client, and compiling it can ask
for much: it is tried in a child process first, with a limit of time and memory.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cupola.errors import InputError, did_you_mean
from cupola.files.chat import CallFormat
from cupola.files.guard import guarded
from cupola.generation.guide import Guides

LONGEST = 256 * 1024  # characters
MEMORY, SECONDS = 192 * 2**20, 0.5
TRIED_STEPS = 16
WHITESPACE = r"( |\n {0,16})?"  # between the parts of JSON; without a limit it may never end
KINDS = ("json_schema", "regex", "choice", "grammar")
ANY_TEXT = r"/(.|\n)*/"


def read_guide(value: Any) -> tuple[str, str]:
    """The grammar of a request's `guide`, and the name by which errors call it.

    {"kind": one of KINDS, "value": ..., "strict": for a schema, whether keywords that cannot be
    followed are an error, "name": ...}.
    """
    if not isinstance(value, Mapping) or "value" not in value:
        raise InputError(f"guide: expected an object with kind and value, got {value!r:.60}")
    kind, content, name = value.get("kind"), value["value"], str(value.get("name", "guide"))
    if kind not in KINDS:
        raise InputError(f"{name}: unknown kind {kind!r:.30}{did_you_mean(str(kind), KINDS)}")
    if kind == "json_schema":
        return f"start: {_json(content, bool(value.get('strict')), name)}", name
    if kind == "choice":
        return f"start: {_choice(content, name)}", name
    if not isinstance(content, str):
        raise InputError(f"{name}: expected a text, got {content!r:.60}")
    if kind == "regex":
        return f"start: {_pattern(content)}", name
    return _lark(content, name), name


def read_tools(
    value: Mapping[str, Any],
    form: CallFormat,
    content: str | None,
    special: Mapping[str, int] | None = None,
) -> str:
    """The grammar of an answer that may call tools, or must.

    value: {"functions": [{"name", "parameters", "strict"}], "mode": "auto" or "required",
    "parallel": whether more than one call is allowed}. content: the grammar of an answer without
    calls [any text]. special: the ids of special tokens by their names, which no text matches.
    """
    known = special or {}
    if not isinstance(value, Mapping) or not isinstance(value.get("functions"), list):
        raise InputError(f"tool_grammar: expected an object with functions, got {value!r:.60}")
    bodies = [
        f"function_{number}: {_call(each, form, known)}"
        for number, each in enumerate(value["functions"])
    ]
    functions = " | ".join(f"function_{number}" for number in range(len(bodies)))
    trigger, first = form.trigger, form.begin[len(form.trigger) :]
    again = _written(form.between + (form.again or form.begin), known)
    more = f"({again} function)*" if value.get("parallel") else ""
    lines = [*bodies, f"function: {functions}"]
    lines.append(f"calls: {_written(first, known)} function {more} {_written(form.close, known)}")
    calls = f"{_written(trigger, known)} calls"
    if value.get("mode") == "required":
        lines.append(f"start: {calls}")
    elif content is not None:
        lines += [f"start: {calls} | content", content.replace("start:", "content:", 1)]
    elif form.leading:  # an answer that begins like a call is one
        lines += [f"start: {calls} | TEXT?", "TEXT: /[^{](.|\\n)*/"]
    elif trigger in known:  # a special token is not a part of any text
        lines += [f"start: TEXT? {calls} | TEXT", f"TEXT: {ANY_TEXT}"]
    else:
        lines += ["start: opening calls | TEXT", f"TEXT: {ANY_TEXT}"]
        lines.append(f"opening[lazy]: TEXT {_quoted(trigger)}")
    return "\n".join(lines)


def check_grammar(guides: Guides, grammar: str, name: str) -> None:
    """InputError for a grammar that is wrong, or that asks for more time or memory than it may."""
    if len(grammar) > LONGEST:
        raise InputError(f"{name}: {len(grammar)} characters exceed the {LONGEST} accepted")
    if guides.knows(grammar):
        return
    _ = guides.tokenizer  # is made once, here and not in the child
    reason = guarded(lambda: guides.start(grammar, TRIED_STEPS), memory=MEMORY, seconds=SECONDS)
    if reason is not None:
        raise InputError(f"{name}: not usable ({reason})")


def _json(schema: Any, strict: bool, name: str) -> str:
    if not isinstance(schema, Mapping | bool):
        raise InputError(f"{name}: expected a JSON schema, which is an object, got {schema!r:.60}")
    plain = {"not": {}} if schema is False else {} if schema is True else dict(schema)
    plain["x-guidance"] = {
        "whitespace_pattern": WHITESPACE,
        "lenient": not strict,
    }
    try:
        return f"%json {json.dumps(plain)}"
    except (RecursionError, ValueError):
        raise InputError(f"{name}: the schema is nested too deeply") from None


def _call(function: Any, form: CallFormat, special: Mapping[str, int]) -> str:
    """One call from the function's name on, up to its end."""
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"tools: expected a function with a name, got {function!r:.60}")
    schema = function.get("parameters")
    if schema is None:
        schema = {"properties": {}, "additionalProperties": False}
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise InputError(f"tools: expected the schema of an object as the parameters of {name!r}")
    arguments = _json({"type": "object", **schema}, bool(function.get("strict")), "tools")
    return f"{_written(name + form.middle, special)} {arguments} {_written(form.end, special)}"


def _choice(texts: Any, name: str) -> str:
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
        raise InputError(f"{name}: expected a list of texts, got {texts!r:.60}")
    if not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{name}: expected a list of texts that are not empty")
    return " | ".join(_quoted(text) for text in texts)


def _pattern(regex: str) -> str:
    from llguidance import LLMatcher

    made = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"]
    return str(made).removeprefix("start: ")


def _lark(text: str, name: str) -> str:
    """A grammar in Lark, or in the GBNF of llama.cpp."""
    from llguidance.gbnf_to_lark import any_to_lark

    if len(text) > LONGEST // 8:
        raise InputError(f"{name}: {len(text)} characters exceed the {LONGEST // 8} accepted")
    try:
        return str(any_to_lark(text))
    except Exception as error:  # a grammar that a client wrote can fail in any way
        raise InputError(f"{name}: not a grammar ({str(error)[:200]})") from None


def _written(text: str, special: Mapping[str, int]) -> str:
    """A text in Lark, where special tokens stand by their ids."""
    names = "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True))
    parts = re.split(f"({names})", text) if names else [text]
    return " ".join(
        f"<[{special[part]}]>" if part in special else _quoted(part) for part in parts if part
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
