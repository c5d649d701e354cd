"""OpenAI's API as clients use it, with the openai package, against a tiny random model."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running, write_bundle

from cupola.runtime import Predictor
from language_toys import language_bundle
from lazy import LazyModule

httpx = LazyModule("httpx")
openai = LazyModule("openai")
pytestmark = pytest.mark.processes

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if messages[0]['content'] == 'refuse' %}{{ raise_exception('no such chat') }}{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SMALL = 160  # tokens of the other model's cache
CONFIG = {"chat_template": TEMPLATE, "eos_token": {"content": "</s>"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openai")
    assert httpx.Client  # imported now: its import within the collection of garbage fails
    toy = language_bundle(folder / "toy-text").path
    (toy / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    small = language_bundle(folder / "small", "small", cache_tokens=SMALL).path
    exact = {"bundle": str(small), "deterministic": True}
    running = Running(folder / "server", models=[str(toy), exact], plugins=[])
    running.toy = toy  # type: ignore[attr-defined]
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ours(server: Running) -> Any:
    return Predictor.load(server.toy)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def complete(client: Any, prompt: Any = "It is", **options: Any) -> Any:
    options = {"max_tokens": 8, "temperature": 0, **options}
    return client.completions.create(model="toy-text", prompt=prompt, **options)


def test_token_ids_are_prompts(client: Any, ours: Any) -> None:
    ids = ours.tokenizer.encode("It is").ids
    expected = complete(client).choices[0].text
    assert complete(client, ids).choices[0].text == expected
    both = complete(client, [ids, [44]]).choices
    assert both[0].text == expected and both[1].index == 1
    echoed = complete(client, ids, echo=True).choices[0].text
    assert echoed == "It is" + expected
    with pytest.raises(openai.BadRequestError, match="token 99999") as error:
        complete(client, [99999])
    assert error.value.param == "prompt"


def prompt_logprobs(ours: Any, ids: list[int]) -> list[float]:
    import torch

    with torch.no_grad():
        table = ours.model(torch.tensor([ids]))[0].log_softmax(-1)
    return [float(table[i, token]) for i, token in enumerate(ids[1:])]


def test_echo_gives_the_logprobs_of_the_prompt(client: Any, ours: Any) -> None:
    ids = ours.tokenizer.encode("It is a truth universally").ids
    answer = complete(client, ids, max_tokens=0, echo=True, logprobs=2)
    found = answer.choices[0].logprobs
    assert answer.choices[0].text == "It is a truth universally"
    assert answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens == len(ids)
    assert len(found.tokens) == len(ids) and found.token_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(prompt_logprobs(ours, ids), abs=1e-4)
    assert found.top_logprobs[0] is None
    for token, value, top in list(
        zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True)
    )[1:]:
        assert top[token] >= value and len(top) in (1, 2, 3)
    assert found.text_offset[0] == 0 and found.text_offset == sorted(found.text_offset)
    more = complete(client, ids, max_tokens=1, echo=True, logprobs=1).choices[0].logprobs
    assert more.token_logprobs[1 : len(ids)] == found.token_logprobs[1:]
    assert more.token_logprobs[-1] == max(more.top_logprobs[-1].values())  # it was greedy


def test_the_requests_of_lm_eval(client: Any, ours: Any) -> None:
    """As its local-completions model sends them and reads the answers (version 0.4.13)."""
    texts = [("It is", " a truth"), ("床前", "明月光"), ("a single", " man")]
    pairs = [[ours.tokenizer.encode(part).ids for part in pair] for pair in texts]
    how = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = complete(client, [context + rest for context, rest in pairs], **how)
    for choice, (context, rest) in zip(answer.choices, pairs, strict=True):
        table = prompt_logprobs(ours, context + rest)
        values = choice.logprobs.token_logprobs[len(context) : -1]
        assert sum(values) == pytest.approx(sum(table[len(context) - 1 :]), abs=1e-4)
        assert len(choice.logprobs.tokens) == len(context + rest) + 1
        tops = choice.logprobs.top_logprobs[len(context) : -1]
        is_greedy = all(v == max(top.values()) for v, top in zip(values, tops, strict=True))
        with_best = complete(client, context, max_tokens=len(rest), logprobs=1).choices[0]
        assert is_greedy == (with_best.logprobs.token_logprobs == pytest.approx(values, abs=1e-4))
    best = ours.tokenizer.encode("It is").ids
    best += list(ours("It is", max_tokens=3).token_ids)
    greedy = complete(client, [best], **how).choices[0].logprobs
    for value, top in list(zip(greedy.token_logprobs, greedy.top_logprobs, strict=True))[-4:-1]:
        assert value == max(top.values())  # to the last bit
    written = complete(client, [best], max_tokens=5, temperature=0, stop=["zz", "</s>"], seed=1234)
    (expected,) = ours.run([ours.sample(best, {"max_tokens": 5})])
    assert written.choices[0].text == expected.text


def test_logprobs_of_generated_tokens_collected_and_streamed(client: Any) -> None:
    whole = complete(client, logprobs=3, echo=True).choices[0]
    chunks = list(complete(client, logprobs=3, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        pieces = [getattr(chunk.choices[0].logprobs, name) for chunk in chunks]
        assert [x for piece in pieces for x in piece] == getattr(whole.logprobs, name)
    assert complete(client).choices[0].logprobs is None
    none = complete(client, logprobs=0).choices[0].logprobs
    assert [list(top.values()) for top in none.top_logprobs] == [[v] for v in none.token_logprobs]


def chat(client: Any, content: Any = "hello", **options: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    options = {"max_tokens": 6, "temperature": 0, "messages": messages, **options}
    return client.chat.completions.create(**{"model": "toy-text", **options})


def test_chat_logprobs(client: Any) -> None:
    how = {"logprobs": True, "top_logprobs": 2, "model": "small"}  # it is deterministic
    found = chat(client, **how).choices[0].logprobs.content
    assert len(found) == 6
    for entry in found:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert entry.top_logprobs[0].logprob == entry.logprob
        assert len(entry.top_logprobs) == 2
    streamed = list(chat(client, stream=True, **how))
    assert [e for c in streamed for e in c.choices[0].logprobs.content] == found
    with pytest.raises(openai.BadRequestError, match="needs logprobs"):
        chat(client, top_logprobs=2)


def test_the_chat_template_of_the_folder_is_used(client: Any) -> None:
    def text(prompt: str) -> str:
        return str(complete(client, prompt, max_tokens=6).choices[0].text)

    assert chat(client).choices[0].message.content == text("<user>hello</s><assistant>")
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert chat(client, parts).choices[0].message.content == text("<user>hello</s><assistant>")
    turns = [
        {"role": "system", "content": "s"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    rendered = "<system>s</s><assistant></s><tool>t</s><assistant>"
    assert chat(client, messages=turns).choices[0].message.content == text(rendered)
    with pytest.raises(openai.BadRequestError, match="no such chat") as error:
        chat(client, "refuse")
    assert error.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="type 'image_url' is not supported"):
        chat(client, [{"type": "image_url", "image_url": {"url": "x"}}])


def test_a_chat_goes_to_the_end_of_its_context(client: Any) -> None:
    body = {"max_tokens": None, "extra_body": {"min_tokens": 100}, "stop": None, "stream": True}
    stream = chat(client, temperature=1, seed=1, **body)
    for count, _ in enumerate(stream):
        if count == 60:
            break
    else:
        pytest.fail("the answer ended")
    stream.close()


def test_chats_without_a_limit_share_the_cache_and_reach_its_end(server: Running) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    body = {"model": "small", "messages": [{"role": "user", "content": "It is"}]}
    body |= {"seed": 1, "ignore_eos": True, "n": 3}
    usage = httpx.post(url, json=body, timeout=60).json()["usage"]
    assert usage["completion_tokens"] == 3 * (SMALL - usage["prompt_tokens"])


def test_penalties_and_biases_have_an_effect(client: Any, ours: Any) -> None:
    plain = complete(client, max_tokens=30).choices[0].text
    for options in (
        {"extra_body": {"repetition_penalty": 5.0}},
        {"frequency_penalty": 2.0, "extra_body": {"repetition_penalty": 1.5}},
        {"logit_bias": {"44": 100}},
    ):
        assert complete(client, max_tokens=30, **options).choices[0].text != plain
    biased = complete(client, max_tokens=4, logit_bias={"44": 100}).choices[0].text
    assert biased == ours.tokenizer.decode([44] * 4)
    limited = complete(
        client, max_tokens=4, temperature=2, seed=1, logit_bias={"44": 100},
        extra_body={"min_p": 1.0, "top_k": -1},
    )  # fmt: skip
    assert limited.choices[0].text == biased
    with pytest.raises(openai.BadRequestError, match="999 is not one of") as error:
        complete(client, logit_bias={"999": 1})
    assert error.value.param == "logit_bias"


def test_stop_tokens_end_of_text_and_least_length(client: Any) -> None:
    bias = {"44": 100}
    stopped = complete(client, logit_bias=bias, extra_body={"stop_token_ids": [44]})
    assert stopped.choices[0].finish_reason == "stop" and stopped.usage.completion_tokens == 1
    listed = complete(client, logit_bias=bias, extra_body={"stop": [44, "never"]})
    assert listed.usage.completion_tokens == 1
    ended = complete(client, logit_bias={"2": 100})
    assert ended.choices[0].finish_reason == "stop" and ended.usage.completion_tokens == 1
    ignored = complete(client, logit_bias={"2": 100}, extra_body={"ignore_eos": True})
    assert ignored.usage.completion_tokens == 8
    least = complete(client, logit_bias={"2": 100}, extra_body={"min_tokens": 3})
    assert least.choices[0].finish_reason == "stop" and least.usage.completion_tokens == 4


def test_only_allowed_tokens_are_chosen_and_no_bad_words(client: Any, ours: Any) -> None:
    how = {"max_tokens": 30, "temperature": 1, "seed": 1}
    for seed in range(3):
        options = {**how, "seed": seed, "extra_body": {"allowed_token_ids": [70, 71]}}
        text = complete(client, **options).choices[0].text
        assert len(text) == 30 and set(text) <= set(ours.tokenizer.decode([70, 71]))
    pair = ours.tokenizer.decode([70, 71])
    options = {**how, "extra_body": {"allowed_token_ids": [70, 71], "bad_words": [pair]}}
    assert pair not in complete(client, **options).choices[0].text
    with pytest.raises(openai.BadRequestError, match="no token is left"):
        bad = ours.tokenizer.decode([70])
        complete(client, extra_body={"allowed_token_ids": [70], "bad_words": [bad]})
    for name, wrong in (
        ("allowed_token_ids", []), ("allowed_token_ids", [5000]), ("bad_words", ["a", ""]),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as error:
            complete(client, extra_body={name: wrong})
        assert error.value.param == name


def test_a_prompt_is_truncated_from_its_beginning(client: Any, ours: Any) -> None:
    ids = ours.tokenizer.encode("It is a truth universally acknowledged").ids
    short = complete(client, ids[-3:])
    found = complete(client, ids, extra_body={"truncate_prompt_tokens": 3})
    assert found.choices[0].text == short.choices[0].text and found.usage.prompt_tokens == 3
    text = "It is a truth universally acknowledged"
    for stream in (False, True):
        options = {"echo": True, "stream": stream, "extra_body": {"truncate_prompt_tokens": 3}}
        answer = complete(client, text, **options)
        parts = answer if stream else [answer]
        whole = "".join(part.choices[0].text for part in parts)
        assert whole == ours.tokenizer.decode(ids[-3:]) + short.choices[0].text
    options = {"model": "small", "max_tokens": 20, "extra_body": {"truncate_prompt_tokens": -1}}
    long = client.completions.create(prompt=ids * 100, **options)
    assert long.usage.prompt_tokens == SMALL - 20
    for wrong in (0, -2, 10**6):
        with pytest.raises(openai.BadRequestError) as error:
            complete(client, ids, extra_body={"truncate_prompt_tokens": wrong})
        assert error.value.param == "truncate_prompt_tokens"


def test_the_stop_string_is_a_part_of_the_text_if_wanted(client: Any) -> None:
    plain = complete(client, max_tokens=20).choices[0].text
    stop = plain[5:8]
    end = plain.find(stop)
    kept = {"include_stop_str_in_output": True}
    for options, size in (({}, end), ({"extra_body": kept}, end + len(stop))):
        choice = complete(client, max_tokens=20, stop=[stop], **options).choices[0]
        assert (choice.text, choice.finish_reason) == (plain[:size], "stop")
        chunks = complete(client, max_tokens=20, stop=[stop], stream=True, **options)
        assert "".join(chunk.choices[0].text for chunk in chunks) == plain[:size]


def test_usage_says_what_was_cached(client: Any, ours: Any) -> None:
    prompt = list(range(60, 160))
    first = complete(client, prompt, n=2, max_tokens=2).usage
    assert first.prompt_tokens_details.cached_tokens == 0
    again = complete(client, prompt, max_tokens=2).usage
    assert 64 <= again.prompt_tokens_details.cached_tokens < len(prompt)


def test_seeds_give_the_same_answer_every_time(client: Any) -> None:
    for seed in (0, 7, -1, 2**62, 2**70):
        found = {
            tuple(c.text for c in complete(client, n=2, seed=seed, temperature=1).choices)
            for _ in range(3)
        }
        assert len(found) == 1 and len(set(*found)) == 2
    texts = {complete(client, temperature=1, max_tokens=20).choices[0].text for _ in range(3)}
    assert len(texts) > 1


def test_usage_counts_a_prompt_once(client: Any, ours: Any) -> None:
    tokens = len(ours.tokenizer.encode("It is").ids)
    answer = complete(client, n=3, max_tokens=2)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (tokens, 6)
    pair = complete(client, ["It is", "It is"], n=2, max_tokens=2)
    assert pair.usage.prompt_tokens == 2 * tokens
    *_, last = complete(client, n=2, stream=True, stream_options={"include_usage": True})
    assert last.usage.prompt_tokens == tokens


def test_best_of_returns_the_likeliest(client: Any) -> None:
    how = {"temperature": 1, "seed": 3, "logprobs": 0}
    every = complete(client, n=4, **how).choices
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in every]
    best = complete(client, best_of=4, **how).choices
    assert len(best) == 1 and best[0].text == every[means.index(max(means))].text


def test_nulls_mean_defaults_and_the_defaults_are_openais(server: Running) -> None:
    names = ("stream", "n", "echo", "stop", "seed", "top_p", "logit_bias", "max_tokens",
             "best_of", "logprobs", "temperature", "suffix", "user", "stream_options")  # fmt: skip
    body = {"model": "toy-text", "prompt": "It is", **dict.fromkeys(names)}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    answer = httpx.post(url, json=body)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 16
    texts = {httpx.post(url, json=body).json()["choices"][0]["text"] for _ in range(3)}
    assert len(texts) > 1  # temperature 1


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["toy-text", "small"]
    assert client.models.retrieve("toy-text").id == "toy-text"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("none")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"max_tokens": 9000}, "prompt", "context_length_exceeded"),
        ({"extra_body": {"max_tokenz": 3}}, "max_tokenz", "unknown_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"n": 0}, "n", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"best_of": 1, "n": 2}, "best_of", None),
        ({"prompt": []}, "prompt", None),
        ({"extra_body": {"min_tokens": 9}}, "min_tokens", None),
        ({"seed": 1.5}, "seed", None),
        ({"user": 5}, "user", "invalid_type"),
        ({"extra_body": {"metadata": "x"}}, "metadata", "invalid_type"),
        ({"extra_body": {"store": 1}}, "store", "invalid_type"),
        ({"extra_body": {"length_penalty": True}}, "length_penalty", "unsupported_parameter"),
        (
            {"extra_body": {"add_generation_prompt": 1}},
            "add_generation_prompt",
            "unsupported_parameter",
        ),
    ],
)
def test_errors_name_the_parameter(client: Any, options: Any, param: str, code: Any) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, **options)
    assert (error.value.param, error.value.code) == (param, code)


WRONG: tuple[Any, ...] = (-1, 1e300, 2**63, True, "9" * 400, [[]], {"a": None}, [1, "a"])
SHARED = (
    "temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty seed stop "
    "logit_bias stop_token_ids ignore_eos min_tokens n stream_options response_format logprobs "
    "structured_outputs guided_json guided_regex guided_choice guided_grammar skip_special_tokens "
    "max_tokens add_special_tokens truncate_prompt_tokens allowed_token_ids bad_words priority "
    "use_beam_search length_penalty return_token_ids suffix echo functions model "
    "include_stop_str_in_output metadata store user reasoning_effort prediction"
)
ENDPOINTS = {
    "completions": f"{SHARED} prompt best_of",
    "chat/completions": f"{SHARED} messages max_completion_tokens tools tool_choice top_logprobs "
    "parallel_tool_calls chat_template_kwargs modalities audio documents chat_template",
}
NEEDED = {"model", "prompt", "messages"}  # one of them may be named instead


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_parameter_works_or_is_named(server: Running, endpoint: str) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/{endpoint}"
    good: dict[str, Any] = {"model": "toy-text", "max_tokens": 2}
    if endpoint == "completions":
        good["prompt"] = "It is"
    else:
        good["messages"] = [{"role": "user", "content": "x"}]
    with httpx.Client(timeout=60) as client:
        for name in ENDPOINTS[endpoint].split():
            null = {**good, name: None} if name != "max_tokens" else good
            assert client.post(url, json=null).status_code == (400 if name in NEEDED else 200)
            for value in WRONG:
                answer = client.post(url, json={**good, name: value})
                assert answer.status_code in (200, 400, 404), (name, value, answer.text)
                if answer.status_code != 200:
                    error = answer.json()["error"]
                    assert error["param"] in {name, *NEEDED}, (name, value, error)
                    assert 0 < len(error["message"]) < 700 and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[]", "request body: expected a JSON object"),
        ('{"prompt": "a", "temperature": NaN}', "not valid JSON"),
        ('{"model": "toy-text", "prompt": ["a", 1]}', "prompt: expected a text, a list of texts"),
        ('{"model": "toy-text", "prompt": ' + "[" * 2000 + "]" * 2000 + "}", "not valid JSON"),
        ('{"model": "toy-text", "prompt": "a", "stop": {}}', "stop: expected a text, or a list"),
    ],
    ids=["list", "nan", "mixed", "deep", "stop"],
)
def test_bodies_that_are_wrong(server: Running, body: str, says: str) -> None:
    answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", content=body)
    assert answer.status_code == 400 and says in answer.json()["error"]["message"]
    missing = httpx.post(f"http://127.0.0.1:{server.port}/v1/embeddings", json={})
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user"}, "needs content"),
        ({"role": "user", "content": ["a"]}, "messages.0.content: expected a text, or a list"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "needs a text"),
        ({"role": "user", "content": [{"type": "text"}]}, "needs a text"),
        ({"role": "bot", "content": "a"}, "messages.0.role"),
    ],
)
def test_messages_that_are_wrong(client: Any, message: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as error:
        chat(client, messages=[message])
    assert error.value.param == "messages"


STREAMED: list[dict[str, Any]] = [
    {"n": 3},
    {"logprobs": 2, "echo": True, "n": 2},
    {"stop": ["\n", "a", "th"]},
    {"stop": "明", "logprobs": 0},
    {"max_tokens": 0, "echo": True, "logprobs": 1},
    {"extra_body": {"guided_regex": "[é明a-z]{5,9}"}},
    {"extra_body": {"skip_special_tokens": False}},
]


@pytest.mark.parametrize("options", STREAMED)
def test_streams_add_up_to_what_is_collected(client: Any, options: Any) -> None:
    for prompt in ("It is a", [[44], [55, 66]]):
        how = {"max_tokens": 20, "temperature": 1, "seed": 3, **options}
        whole = complete(client, prompt, **how)
        usage = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, last = complete(client, prompt, stream=True, stream_options=usage, **how)
        assert last.usage == whole.usage and not last.choices
        for choice in whole.choices:
            own = [c for c in chunks if c.choices[0].index == choice.index]
            assert "".join(c.choices[0].text for c in own) == choice.text
            reasons = [c.choices[0].finish_reason for c in own]
            assert reasons == [None] * (len(own) - 1) + [choice.finish_reason]
            sizes = [c.usage.completion_tokens for c in own]
            assert sizes == sorted(sizes) and own[0].usage.prompt_tokens
            if choice.logprobs:
                names = [name for c in own for name in c.choices[0].logprobs.tokens]
                assert names == choice.logprobs.tokens


def test_tokens_that_are_parts_of_characters_have_their_bytes(client: Any) -> None:
    found = []
    for seed in range(4):
        how = {"temperature": 1, "seed": seed, "max_tokens": 30, "top_logprobs": 3}
        found += chat(client, "床前明月光", logprobs=True, **how).choices[0].logprobs.content
    parts = [e for entry in found for e in (entry, *entry.top_logprobs) if "\ufffd" in e.token]
    assert parts and all(entry.bytes != list("\ufffd".encode()) for entry in parts)


@pytest.mark.parametrize("name", ["tools", "modalities"])
def test_what_a_chat_does_not_support_is_named(client: Any, name: str) -> None:
    values: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "modalities": ["audio"],
    }
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **{name: values[name]})
    assert (error.value.param, error.value.code) == (name, "unsupported_parameter")
    assert chat(client, response_format={"type": "text"}, user="me").choices


def test_many_prompts_are_admitted_in_turn(client: Any) -> None:
    answer = complete(client, [[44, 55]] * 300, max_tokens=1)
    assert [c.index for c in answer.choices] == list(range(300))


def test_a_healthy_stream_may_take_longer_than_the_deadline(serve: Any, tmp_path: Path) -> None:
    slow = write_bundle(tmp_path / "bundles", "slow", task="language", step_seconds=0.5)
    server = serve(models=[str(slow)], request_timeout=2.0)
    body = {"model": "slow", "prompt": "a", "max_tokens": 6, "stream": True}
    began = time.monotonic()
    answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body, timeout=30)
    assert answer.text.count('"text":"w') == 6 and answer.text.endswith("data: [DONE]\n\n")
    assert time.monotonic() - began > 2.5
