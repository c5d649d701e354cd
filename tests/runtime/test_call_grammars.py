"""Grammars of tool calls: in each model's own format, with and without special tokens."""

import json
from typing import Any

import pytest

from cupola.data.text import train_tokenizer
from cupola.files.chat import LIST, MARKS, PLAIN, TAGS, CallFormat, read_chat_template
from cupola.generation.guide import Guides
from cupola.runtime.predictors.grammars import read_tools
from language_toys import LINES

FORMS = {"tags": TAGS, "plain": PLAIN, "list": LIST, "marks": MARKS}
SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>"]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FUNCTIONS = [{"name": name, "parameters": SCHEMA} for name in ("one", "two")]


@pytest.fixture(scope="module")
def plain() -> Any:
    return train_tokenizer(LINES, 300)


@pytest.fixture(scope="module")
def special() -> Any:
    tokenizer = train_tokenizer(LINES, 300)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def written(form: CallFormat, *names: str) -> str:
    calls = [f'{name}{form.middle}{{"n": 1}}{form.end}' for name in names]
    return form.begin + (form.between + (form.again or form.begin)).join(calls) + form.close


def follows(tokenizer: Any, grammar: str, text: str) -> bool:
    """Whether the grammar allows the text, and its end."""
    guide = Guides(tokenizer, [2]).start(grammar)
    size = tokenizer.get_vocab_size()
    for token in tokenizer.encode(text, add_special_tokens=False).ids:
        if guide.ended or not guide.allowed(size)[token]:
            return False
        guide.accept(token)
    return guide.ended or bool(guide.allowed(size)[2])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("kind", ["plain", "special"])
def test_calls_in_the_models_format(
    form: CallFormat, mode: str, kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL} if kind == "special" else {}
    offer = {"functions": FUNCTIONS, "mode": mode, "parallel": True}
    grammar = read_tools(offer, form, None, ids)
    assert follows(tokenizer, grammar, written(form, "one"))
    assert follows(tokenizer, grammar, written(form, "two", "one"))
    assert not follows(tokenizer, grammar, written(form, "three"))
    assert follows(tokenizer, grammar, "some text") == (mode == "auto")
    if not form.leading:
        assert follows(tokenizer, grammar, "some text" + written(form, "one")) == (mode == "auto")
    single = read_tools({**offer, "parallel": False}, form, None, ids)
    assert follows(tokenizer, single, written(form, "one"))
    assert not follows(tokenizer, single, written(form, "one", "two"))


@pytest.mark.parametrize(
    ("template", "begin"),
    [
        ("{{ tools }}[TOOL_CALLS] [{{ x }}]", '[TOOL_CALLS] [{"name": "'),
        ("{{ tools }}[TOOL_CALLS][{{ x }}]", LIST.begin),
        ('{{ tools }}{{ "[TOOL_CALLS]" + name + "[ARGS]" }}', MARKS.begin),
        ("{{ tools }}<tool_call>", TAGS.begin),
    ],
)
def test_the_format_is_that_of_the_template(template: str, begin: str, tmp_path: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    found = read_chat_template(tmp_path)
    assert found is not None and found.call_format is not None
    assert found.call_format.begin == begin
