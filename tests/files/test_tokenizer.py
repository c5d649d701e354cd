"""A hostile tokenizer.json ends in one error; padding, truncation and panics do no harm."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cupola.errors import BundleError, InputError
from cupola.files import tokenizer as files
from cupola.files.tokenizer import GuardedTokenizer, read_tokenizer
from language_toys import panics_on_z


def content(**changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer with changes."""
    vocabulary = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return json.loads(tokenizer.to_str()) | changes


def write(folder: Path, value: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def replace(pattern: dict[str, str], text: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": text}


def split(pattern: str) -> dict[str, Any]:
    rule = {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Split", **rule}


DOUBLE = replace({"String": "a"}, "aa")
HOSTILE = {
    "doubling": content(normalizer={"type": "Sequence", "normalizers": [DOUBLE] * 40}),
    "long": content(normalizer=replace({"String": "a"}, "a" * 10**6)),
    "by regex": content(normalizer=replace({"Regex": ""}, "a" * 10**6)),
    "prepend": content(normalizer={"type": "Prepend", "prepend": "a" * 10**6}),
    "decoder": content(decoder={"type": "Sequence", "decoders": [DOUBLE] * 40}),
    "nested repeats": content(pre_tokenizer=split(r"(\p{L}+)+$")),
    "nested in a choice": content(pre_tokenizer=split(r"(?:(?:a|b+)x?)*c")),
    "back reference": content(pre_tokenizer=split(r"(a+)\1+b")),
    "polynomial": content(pre_tokenizer=split(r"a*a*a*a*a*a*b")),
    "large": content(post_processor={"type": "TemplateProcessing", "single": [{}] * 20_000}),
    "no model": {"normalizer": None},
    "unknown model": content(model={"type": "Nothing"}),
    "a list": [],
    "no JSON": "{",
    "deep": '{"model":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep and valid": '{"model":' + "[" * 500 + "]" * 500 + "}",
    "a lone surrogate": '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}',
    "lying merges": content(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizers_end_in_one_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, HOSTILE[name])
    before = time.process_time()
    with pytest.raises(BundleError) as caught:
        read_tokenizer(path, BundleError)
    assert time.process_time() - before < 2
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_padding_and_truncation_are_off(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    path = write(tmp_path, content(padding=padding, truncation=cut))
    tokenizer = read_tokenizer(path)
    assert len(tokenizer.encode("three").ids) == 5


class Panicking:
    """Stands for a library that panics, which is no Exception."""

    class Panic(BaseException):
        pass

    def no_padding(self) -> None: ...

    def no_truncation(self) -> None: ...

    def encode(self, text: str, **options: Any) -> Any:
        raise self.Panic("index out of bounds\nsecond line")

    decode = encode


def test_a_panic_is_the_error_of_one_request() -> None:
    tokenizer = GuardedTokenizer(Panicking())
    with pytest.raises(InputError, match=r"^prompt: .* \(index out of bounds\)$"):
        tokenizer.encode("a")
    with pytest.raises(InputError, match="decode its own tokens"):
        tokenizer.decode([1])


def test_a_real_panic_on_one_letter_is_the_error_of_one_request(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write(tmp_path, content(normalizer=panics_on_z())))
    with pytest.raises(InputError, match=r"^prompt: .* out of bounds") as caught:
        tokenizer.encode("a z")
    assert str(caught.value).isprintable()
    assert len(tokenizer.encode("a").ids) == 1


def test_long_prompts_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write(tmp_path, content()))
    monkeypatch.setattr(files, "LONGEST_PROMPT", 3)
    with pytest.raises(InputError, match="prompt: 4 characters exceed the 3 accepted"):
        tokenizer.encode("four")


PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}]+(?i:'s|'t)?|\p{N}{1,3}|\s*[\r\n]+|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_read(tmp_path: Path, pattern: str) -> None:
    value = content(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(pattern)]})
    tokenizer = read_tokenizer(write(tmp_path, value))
    assert tokenizer.encode("ab 12").tokens
