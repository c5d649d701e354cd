"""The language predictor: completions, streams, stop strings, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.errors import BundleError, InputError
from cupola.generation.detokenizer import IncrementalDetokenizer
from cupola.runtime import Predictor
from cupola.runtime.predictors.language import LanguagePredictor
from language_toys import LINES, language_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_bundle(tmp_path_factory.mktemp("bundles") / "toy-text").path


@pytest.fixture(scope="module")
def predictor(folder: Path) -> LanguagePredictor:
    return Predictor.load(folder)


def stream(predictor: LanguagePredictor, prompt: str, **parameters: Any) -> list[dict]:
    engine = predictor.open_stream()
    engine.add("one", predictor.sample(prompt, parameters))
    found = []
    while engine.active:
        found += [dict(chunk.data) for chunk in engine.step()]
    return found


def test_a_stream_adds_up_to_the_completion(predictor: LanguagePredictor) -> None:
    how = {"max_tokens": 24, "temperature": 1.0, "seed": 5}
    whole = predictor("明月", **how)
    pieces = stream(predictor, "明月", **how)
    assert "".join(piece["text"] for piece in pieces) == whole.text
    assert tuple(piece["token_id"] for piece in pieces) == whole.token_ids
    assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1]["finish_reason"] == whole.finish_reason == "length"
    assert pieces[-1]["completion_tokens"] == 24
    assert pieces[-1]["prompt_tokens"] == whole.prompt_tokens


def test_a_request_of_several_prompts(predictor: LanguagePredictor) -> None:
    prompts = np.array([b"It is", "床前".encode()], dtype=object)
    samples = predictor.decode({"prompt": prompts}, {"max_tokens": 5, "temperature": 0.7})
    answers = predictor.encode(predictor.run(samples), {})
    assert [len(array) for array in answers.values()] == [2, 2, 2, 2]
    assert answers["completion_tokens"].tolist() == [5, 5]
    assert answers["text"][0] == predictor("It is", max_tokens=5, temperature=0.7).text.encode()


def test_a_stop_string_ends_the_text_before_it(predictor: LanguagePredictor) -> None:
    plain = predictor("It is", max_tokens=40, temperature=1.0).text
    stop = plain[6:9]
    ended = predictor("It is", max_tokens=40, temperature=1.0, stop=["never", stop])
    assert ended.text == plain[: plain.index(stop)]
    assert ended.finish_reason == "stop"


@pytest.mark.parametrize("stop", [None, "\u672c"])
def test_a_stream_resumes_from_any_token(predictor: LanguagePredictor, stop: str | None) -> None:
    how = {"max_tokens": 24, "temperature": 1.0, "seed": 5, "repetition_penalty": 1.2}
    pieces = stream(predictor, "\u660e\u6708", stop=stop, **how)
    for cut in range(1, len(pieces)):
        engine = predictor.open_stream()
        written = [piece["token_id"] for piece in pieces[:cut]]
        engine.resume("one", predictor.sample("\u660e\u6708", {"stop": stop, **how}), written)
        rest = []
        while engine.active:
            rest += [dict(chunk.data) for chunk in engine.step()]
        assert rest == pieces[cut:]


def test_logprobs_are_given_on_request(predictor: LanguagePredictor) -> None:
    pieces = stream(predictor, "It", max_tokens=3, logprobs=1)
    assert all(piece["logprob"] <= 0 for piece in pieces)
    assert "logprob" not in stream(predictor, "It", max_tokens=1)[0]


def test_the_same_seed_gives_the_same_text(predictor: LanguagePredictor) -> None:
    texts = [predictor("a", max_tokens=16, temperature=1.0, seed=s).text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_characters_of_several_tokens_are_not_split(predictor: LanguagePredictor) -> None:
    ids = predictor.tokenizer.encode(LINES[1]).ids
    detokenizer = IncrementalDetokenizer(predictor.tokenizer)
    pieces = [detokenizer.add(token, last=False)[0] for token in ids]
    assert "".join(pieces) == LINES[1]
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_held_back_is_emitted_when_no_stop_string_follows(
    predictor: LanguagePredictor,
) -> None:
    detokenizer = IncrementalDetokenizer(predictor.tokenizer, stop=("moon",))
    ids = [i for c in "mo" for i in predictor.tokenizer.encode(c).ids]
    assert [detokenizer.add(i, last=False)[0] for i in ids] == ["", ""]
    assert detokenizer.add(predictor.tokenizer.encode("t").ids[0], last=True) == ("mot", False)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"max_tokens": "many"}, "max_tokens: expected an integer"),
        ({"max_tokens": 1.5}, "max_tokens: expected an integer"),
        ({"max_tokens": -1}, "max_tokens must not be negative"),
        ({"max_tokens": 100000}, "maximum context length is 8192 tokens"),
        ({"stop": 3}, "stop: expected a text or a list of texts"),
        ({"stop": [""]}, "stop: expected a text or a list of texts"),
    ],
)
def test_wrong_parameters(predictor: LanguagePredictor, parameters: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        predictor.decode({"prompt": ["a"]}, parameters)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({}, "prompt: expected an array of texts"),
        ({"prompt": [""]}, "prompt: must not be empty"),
        ({"prompt": [b"\xff"]}, "prompt: not valid UTF-8"),
        ({"prompt": [3]}, "prompt: expected text, got int"),
    ],
)
def test_wrong_prompts(predictor: LanguagePredictor, tensors: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        predictor.decode(tensors, {})


def test_a_bundle_needs_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BundleError, match=r"contains no tokenizer\.json"):
        Predictor.load(tmp_path)


def test_generate_streams_to_the_terminal(folder: Path, predictor: LanguagePredictor) -> None:
    done = CliRunner().invoke(
        app, ["generate", str(folder), "It is", "--max-tokens", "8", "--temperature", "0"]
    )
    assert done.exit_code == 0, done.output
    assert done.output == "It is" + predictor("It is", max_tokens=8).text + "\n"


def test_a_tokenizer_that_panics_ends_one_request(
    predictor: LanguagePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panicking:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            if ids[: len(bad)] == bad:
                raise BaseException("index out of bounds")  # as a panic of the library is
            return str(library.decode(ids, skip_special_tokens=skip_special_tokens))

    library = predictor.tokenizer._tokenizer
    samples = [predictor.sample(text, {"max_tokens": 3}) for text in ("It", "The", "A")]
    bad = list(samples[1].ids)
    expected = predictor.run([samples[0], samples[2]])
    monkeypatch.setattr(predictor.tokenizer, "_tokenizer", Panicking())
    engine = predictor.open_stream()
    for name, sample in zip("abc", samples, strict=True):
        engine.add(name, sample)
    chunks = []
    while engine.active:
        chunks += engine.step()
    errors = {chunk.request_id: chunk.error for chunk in chunks if chunk.error}
    assert errors == {"b": "the tokenizer cannot decode its own tokens (index out of bounds)"}
    for name, whole in zip("ac", expected, strict=True):
        texts = [chunk.data["text"] for chunk in chunks if chunk.request_id == name]
        assert "".join(texts) == whole.text
    with pytest.raises(InputError, match="index out of bounds"):
        predictor.run(samples)
