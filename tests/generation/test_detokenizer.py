"""Text comes as soon as it is certain, and adds up to what all tokens decode to at once."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cupola.generation.detokenizer import IncrementalDetokenizer
from cupola.runtime import Predictor


def sentencepiece() -> Tokenizer:
    """A tokenizer as LLaMA 1 and 2 and Mistral have it: spaces as ▁, unknown bytes as <0x..>."""
    words = ["<s>", "</s>", "<unk>", "▁the", "▁cat", "s", "▁", "▁明", "▁a"]
    vocabulary = [(word, -1.0) for word in [*words, *(f"<0x{b:02X}>" for b in range(256))]]
    found = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    found.add_special_tokens(["<s>", "</s>"])
    return found


def stream(detokenizer: IncrementalDetokenizer, ids: list[int]) -> list[str]:
    last = len(ids) - 1
    return [detokenizer.add(token, last=place == last)[0] for place, token in enumerate(ids)]


@pytest.mark.parametrize("text", ["the cats the cat", "a 明月 a", "the 🙂s", "s"])
@pytest.mark.parametrize("prompt", ["the cat", "<s> a", "<s>"])
def test_spaces_between_tokens_are_kept(prompt: str, text: str) -> None:
    tokenizer = sentencepiece()
    before = tokenizer.encode(prompt).ids
    ids = tokenizer.encode(text).ids
    pieces = stream(IncrementalDetokenizer(tokenizer, before), ids)
    whole = tokenizer.decode(before + ids)
    assert tokenizer.decode(before) + "".join(pieces) == whole
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_text_are_given_out_after_a_while() -> None:
    tokenizer = sentencepiece()
    broken = tokenizer.token_to_id("<0xE6>")
    ids = [broken] * 5 + tokenizer.encode("the").ids
    pieces = stream(IncrementalDetokenizer(tokenizer, tokenizer.encode("a").ids), ids)
    assert pieces[:3] == ["", "", ""]
    assert "\ufffd" in pieces[3]
    assert pieces[-1].endswith("the")


def test_random_bytes_add_up_to_what_they_decode_to() -> None:
    tokenizer = Predictor.load("bloom-tiny").tokenizer
    draw = random.Random(0)
    for _ in range(300):
        prompt = [draw.randrange(3, 260) for _ in range(draw.randrange(1, 5))]
        ids = [draw.randrange(3, 260) for _ in range(draw.randrange(1, 20))]
        text = "".join(stream(IncrementalDetokenizer(tokenizer, prompt), ids))
        assert text == tokenizer.decode(prompt + ids)[len(tokenizer.decode(prompt)) :]


def test_a_stop_string_may_span_tokens() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("the cats a").ids
    detokenizer = IncrementalDetokenizer(tokenizer, tokenizer.encode("a").ids, stop=("ts a",))
    found = [detokenizer.add(token, last=False) for token in ids]
    assert found[-1][1] and not any(stopped for _, stopped in found[:-1])
    assert "".join(text for text, _ in found) == " the ca"
