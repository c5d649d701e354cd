"""Tools, response formats and guided text through the openai client, against a tiny random model.

The model's words are random, so that whatever is right about its answers is the grammar's doing.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from serve_harness import Running

from cupola.data.text import train_tokenizer
from language_toys import LINES, language_bundle, panics_on_z
from lazy import LazyModule

httpx = LazyModule("httpx")
openai = LazyModule("openai")
pytestmark = pytest.mark.processes

TAGGED = (
    "{% for t in tools or [] %}{{ t | tojson }}<tool_call>{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments['n'] + 1 }}{% endfor %}{% endfor %}"
)
PLAIN = (
    '{% if tools %}Environment: ipython. Answer with {"name": ..., "parameters": ...}.'
    "{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
LIST = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}[INST]{{ m.content }}[/INST]{% for c in m.tool_calls or [] %}"
    "[TOOL_CALLS] [{{ c.function | tojson }}]{% endfor %}{% endfor %}"
)
BARE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
WEATHER = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}
CLOCK = {
    "type": "object",
    "properties": {"zone": {"type": "string", "pattern": "^[A-Z]{2,3}$"}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "clock", "description": "", "parameters": CLOCK}},
]
NAMED = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tools")
    models = []
    for name, template in {"tagged": TAGGED, "plain": PLAIN, "list": LIST, "bare": BARE}.items():
        bundle = language_bundle(folder / name, name).path
        (bundle / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        if name == "list":  # as Mistral's, whose calls begin with a special token
            tokenizer = train_tokenizer(LINES, 299)
            tokenizer.add_special_tokens(["[TOOL_CALLS]"])
            tokenizer.save(str(bundle / "tokenizer.json"))
        models.append(str(bundle))
    panics = language_bundle(folder / "panics", "panics").path
    content = json.loads((panics / "tokenizer.json").read_bytes())
    (panics / "tokenizer.json").write_text(json.dumps(content | {"normalizer": panics_on_z()}))
    running = Running(folder / "server", models=[*models, str(panics)], plugins=[])
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def chat(client: Any, model: str = "tagged", **options: Any) -> Any:
    messages = [{"role": "user", "content": "hello"}]
    options = {"max_tokens": 200, "messages": messages, "seed": 1, **options}
    return client.chat.completions.create(model=model, **options)


def check_call(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    assert call.type == "function"
    assert call.id.startswith("call_") or (len(call.id) == 9 and call.id.isalnum())
    if call.function.name == "weather":
        assert set(arguments) == {"unit", "days"} and arguments["days"] in (1, 2, 3)
    else:
        assert call.function.name == "clock" and 2 <= len(arguments["zone"]) <= 3


@pytest.mark.parametrize("model", ["tagged", "plain", "list"])
def test_required_calls_follow_their_schemas(client: Any, model: str) -> None:
    for seed in range(4):
        answer = chat(
            client, model, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        (call,) = choice.message.tool_calls
        check_call(call)


@pytest.mark.parametrize("model", ["tagged", "plain"])
def test_a_named_function_is_called_once(client: Any, model: str) -> None:
    choice = chat(client, model, tools=TOOLS, tool_choice=NAMED).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["clock"]
    assert choice.finish_reason == "stop"  # as with OpenAI
    check_call(choice.message.tool_calls[0])
    allowed = {"mode": "required", "tools": [NAMED]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    calls = chat(client, tools=TOOLS, tool_choice=choice).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"clock"}


def several(client: Any, **options: Any) -> Any:
    """An answer with more than one call."""
    for seed in range(30):
        how = {"tools": TOOLS, "tool_choice": "required", "seed": seed, "max_tokens": 300}
        answer = chat(client, **how, **options)
        if len(answer.choices[0].message.tool_calls) > 1:
            return how, answer.choices[0]
    raise AssertionError("no answer has several calls")


def joined(chunks: Any) -> tuple[str, list[dict[str, str]], list[str]]:
    """The content, the calls and the reasons of a stream, put together as clients do."""
    content, calls, reasons = "", [], []
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for piece in choice.delta.tool_calls or []:
                if piece.id:
                    assert piece.index == len(calls)
                    calls.append({"name": piece.function.name, "arguments": ""})
                calls[piece.index]["arguments"] += piece.function.arguments
    return content, calls, reasons


@pytest.mark.parametrize("model", ["tagged", "list"])
def test_parallel_calls_collected_and_streamed(client: Any, model: str) -> None:
    how, choice = several(client, model=model)
    whole = [call.function for call in choice.message.tool_calls]
    for call in choice.message.tool_calls:
        check_call(call)
    content, calls, reasons = joined(chat(client, model, stream=True, **how))
    assert content == "" and reasons == ["tool_calls"]
    assert calls == [{"name": each.name, "arguments": each.arguments} for each in whole]


def test_auto_answers_with_text_or_with_calls(client: Any) -> None:
    choice = chat(client, tools=TOOLS, max_tokens=20).choices[0]
    assert choice.message.content and choice.message.tool_calls is None
    assert choice.finish_reason in ("length", "stop")  # an end token may be drawn
    content, calls, _ = joined(chat(client, tools=TOOLS, max_tokens=20, stream=True))
    assert (content, calls) == (choice.message.content, [])
    pushed = {"logit_bias": {str(ord("<") - 33 + 4): 12}}  # bytes follow four special tokens
    for _ in range(2):
        plain = chat(client, tools=TOOLS, tool_choice="none", max_tokens=20, **pushed).choices[0]
        assert plain.message.tool_calls is None
    forced = {"response_format": {"type": "json_object"}, "tools": TOOLS}
    for seed in range(60):  # a random model rarely begins a call
        choice = chat(client, seed=seed, **forced, max_tokens=400).choices[0]
        if choice.message.tool_calls:
            check_call(choice.message.tool_calls[0])
            return
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    raise AssertionError("no answer has a call")


def test_the_template_gets_the_tools_and_earlier_calls(client: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"n": 41}'}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "ok"}], "tool_call_id": "call_1"},
    ]
    for model, tools in (("tagged", None), ("tagged", TOOLS[:1])):
        told = "".join(json.dumps(tool) + "<tool_call>" for tool in tools or [])
        prompt = told + "<assistant>42<tool>ok"
        size = client.completions.create(model=model, prompt=prompt, max_tokens=1).usage
        options = {"tools": tools, "max_tokens": 1} if tools else {"max_tokens": 1}
        assert chat(client, model, messages=turns, **options).usage.prompt_tokens == (
            size.prompt_tokens
        )


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"model": "bare", "tools": TOOLS}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools"),
        ({"tools": TOOLS * 65}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "tools"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "array"}},
                    }
                ]
            },
            "tools",
        ),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "extra_body": {"guided_regex": "a"}}, "guided_regex"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions"),
    ],
)
def test_wrong_tools_are_one_error(client: Any, options: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **options)
    assert error.value.param == param


def test_response_formats(client: Any) -> None:
    schema = {"name": "answer", "schema": WEATHER, "strict": True}
    form = {"type": "json_schema", "json_schema": schema}
    choice = chat(client, response_format=form).choices[0]
    assert set(json.loads(choice.message.content)) == {"unit", "days"}
    assert choice.finish_reason == "stop"
    streamed = joined(chat(client, response_format=form, stream=True))
    assert streamed == (choice.message.content, [], ["stop"])
    for model in ("tagged", "bare"):
        found = [
            chat(client, model, response_format={"type": "json_object"}, seed=seed).choices[0]
            for seed in range(6)
        ]
        texts = [each.message.content for each in found if each.finish_reason == "stop"]
        assert texts and all(isinstance(json.loads(text), dict) for text in texts)
    assert chat(client, response_format={"type": "text"}, max_tokens=5).choices[0].message.content


def test_parsed_answers_of_the_client(client: Any) -> None:
    import pydantic

    class Answer(pydantic.BaseModel):
        done: bool
        level: int = pydantic.Field(ge=1, le=3)

    for seed in range(3):
        answer = client.chat.completions.parse(
            model="bare",
            messages=[{"role": "user", "content": "x"}],
            response_format=Answer,
            seed=seed,
        )
        assert answer.choices[0].message.parsed.level in (1, 2, 3)


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ({"guided_regex": "[a-c]{3}-[0-9]{1,2}/\n"}, r"[a-c]{3}-[0-9]{1,2}/\n"),
        ({"guided_choice": ["yes", 'n"o', "yes, or"]}, '(yes|n"o|yes, or)'),
        ({"guided_json": json.dumps({"enum": [1, "x"]})}, '(1|"x")'),
        ({"guided_json": {"oneOf": [{"const": 7}, {"enum": ["x"]}]}}, '(7|"x")'),
        ({"guided_json": {"const": {"a": []}}}, r'\{\s*"a"\s*:\s*\[\s*\]\s*\}'),
        ({"guided_grammar": 'start: "a" B\nB: /[xyz]{2}/'}, "a[xyz]{2}"),
        ({"guided_grammar": 'root ::= "a" ("b" | "c")'}, "a[bc]"),
        ({"structured_outputs": {"choice": ["甲", "乙"]}}, "[甲乙]"),
        ({"structured_outputs": {"regex": "é+", "json": None}}, "é+"),
    ],
)
def test_guided_text(client: Any, options: Any, matches: str) -> None:
    import re

    found = set()
    for seed in range(3):
        answer = client.completions.create(
            model="bare", prompt="x", extra_body=options, seed=seed, max_tokens=60, logprobs=1
        )
        found.add(answer.choices[0].text)
        assert answer.choices[0].finish_reason == "stop" or "+" in matches
        assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens
    assert all(re.fullmatch(matches, text) for text in found)


HOSTILE = {
    "open group": {"guided_regex": "(a"},
    "backtracking only": {"guided_regex": r"(a)\1"},
    "a million times": {"guided_regex": "(a{1000}){1000}"},
    "nothing matches": {"guided_regex": r"[^\s\S]"},
    "groups in groups": {"guided_regex": "(" * 5000 + "a" + ")" * 5000},
    "long": {"guided_regex": "a" * 300_000},
    "no type": {"guided_json": {"type": "strng"}},
    "no JSON": {"guided_json": "{"},
    "itself": {"guided_json": {"$ref": "#"}},
    "a file": {"guided_json": {"$ref": "file:///etc/passwd"}},
    "not exclusive": {"guided_json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
    "unknown keyword": {"guided_json": {"type": "array", "uniqueItems": True}},
    "thousands of keys": {
        "guided_json": {"type": "object", "properties": {f"k{i}": {} for i in range(5000)}}
    },
    "no rule": {"guided_grammar": "start: nothing"},
    "no grammar": {"guided_grammar": "root ::= " + "(" * 9000},
    "no choice": {"guided_choice": []},
    "empty choice": {"guided_choice": ["", "a"]},
    "two": {"guided_choice": ["a"], "guided_regex": "a"},
    "length": {"guided_regex": "a+", "min_tokens": 3},
    "tag": {"structured_outputs": {"structural_tag": "x"}},
}


@pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE)
def test_hostile_grammars_are_one_error_each(client: Any, options: Any) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="bare", prompt="x", extra_body=options)
    assert error.value.param in options and "\n" not in error.value.message


def test_schemas_are_nested_as_deeply_as_json_may_be(client: Any) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(400):
        schema = {"type": "array", "items": schema, "minItems": 1}
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="bare", prompt="x", extra_body={"guided_json": schema})
    assert error.value.param == "guided_json"
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, messages=[{"role": "user", "content": "x", "more": schema}])
    assert error.value.param == "messages"


def test_a_response_format_that_is_wrong_is_named(client: Any) -> None:
    for form in (
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": "no"}},
    ):
        with pytest.raises(openai.BadRequestError) as error:
            chat(client, response_format=form)
        assert error.value.param == "response_format"


def test_a_prompt_on_which_an_untrusted_tokenizer_panics_ends_alone(server: Running) -> None:
    """One request fails, the runner lives."""
    before = server.runner_pids()
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    ask = {"model": "panics", "max_tokens": 2, "temperature": 0}
    texts = []
    for prompt in ("It is", "It is z", "It is"):
        answer = httpx.post(url, json=ask | {"prompt": prompt}, timeout=60)
        texts.append((answer.status_code, answer.json()))
    assert [status for status, _ in texts] == [200, 400, 200]
    assert "out of bounds" in texts[1][1]["error"]["message"]
    assert texts[0][1]["choices"] == texts[2][1]["choices"]
    assert server.runner_pids() == before
