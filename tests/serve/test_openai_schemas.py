"""Requests of OpenAI's API that need no server: strict mode, and calls in pieces of any size."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from cupola.files.chat import LIST, MARKS, PLAIN, TAGS, CallFormat
from cupola.serve.protocols.openai_errors import ParameterError
from cupola.serve.protocols.openai_schemas import IGNORED, ChatRequest
from cupola.serve.protocols.openai_tools import CallParser

MESSAGES = [{"role": "user", "content": "x"}]
FORMS = {"tags": TAGS, "plain": PLAIN, "list": LIST, "marks": MARKS}
ARGUMENTS = ['{"a": "}\\n</tool_call>", "b": [{"c": "\\\\"}]}', "{}", '{"q": "\\""}']


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_strict_mode_refuses_what_has_no_effect(name: str) -> None:
    value = {str: "x", dict: {"a": "b"}, bool: True}[IGNORED[name]]
    body = ChatRequest.model_validate({"model": "m", "messages": MESSAGES, name: value})
    body.check()
    with pytest.raises(ParameterError, match="has no effect") as error:
        body.check(strict=True)
    assert error.value.param == name


def answer(form: CallFormat) -> str:
    calls = [f"f{n}{form.middle}{a}{form.end}" for n, a in enumerate(ARGUMENTS)]
    again = form.between + (form.again or form.begin)
    content = "" if form.leading else "I <tool look: "
    return content + form.begin + again.join(calls) + form.close


def parse(form: CallFormat, text: str, size: int) -> tuple[str, list[dict[str, Any]]]:
    parser = CallParser(asdict(form))
    content, calls = "", []
    for start in range(0, len(text), size):
        found, pieces = parser.add(text[start : start + size], start + size >= len(text))
        content += found
        for piece in pieces:
            if "id" in piece:
                calls.append({"name": piece["function"]["name"], "arguments": ""})
            calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    return content, calls


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_found_in_pieces_of_any_size(form: CallFormat, size: int) -> None:
    content, calls = parse(form, answer(form), size)
    assert content == ("" if form.leading else "I <tool look: ")
    assert calls == [{"name": f"f{n}", "arguments": a} for n, a in enumerate(ARGUMENTS)]
    assert all(isinstance(json.loads(call["arguments"]), dict) for call in calls)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("text", ["", "<tool_", '{"nam', '{"answer": 1}', "plain < text", "<"])
def test_text_without_calls_is_content(form: CallFormat, text: str) -> None:
    for size in (1, 3, 100):
        assert parse(form, text, size) == (text, [])
