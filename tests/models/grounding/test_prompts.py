"""Captions, the tokens of names, and tokenizers from files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.errors import BundleError, InputError
from cupola.files.wordpiece import read_bert_tokenizer
from cupola.models.grounding import class_scores, encode, positive_map, prompts_of
from models.grounding.small import WORDS, small_tokenizer

TOKENIZER = small_tokenizer()


def words_of(text: Any, ends: bool = True) -> list[tuple[str, list[str]]]:
    """Of one prompt: each name with its tokens as words."""
    (prompt,) = prompts_of(text, ends)
    found = encode(prompt, TOKENIZER, 40)
    assert found.tokens is not None
    return [
        (name, [WORDS[found.ids[i]] for i in tokens])
        for name, tokens in zip(prompt.names, found.tokens, strict=True)
    ]


@pytest.mark.parametrize(
    "text", ["cat . traffic lights .", "cat. traffic lights", " Cat .traffic lights. "]
)
def test_names_between_full_stops(text: str) -> None:
    found = words_of(text)
    assert [name.lower() for name, _ in found] == ["cat", "traffic lights"]
    assert [tokens for _, tokens in found] == [["cat"], ["traffic", "light", "##s"]]


def test_lists_are_cleaned_for_the_caption_alone() -> None:
    names = ["cat", "traffic_light", "dog (small)"]
    (prompt,) = prompts_of(names, ends=True)
    assert prompt.caption == "cat. traffic light. dog. " and prompt.names == tuple(names)
    assert prompts_of(names, ends=False)[0].caption == "cat. traffic light. dog"
    assert words_of(names)[2] == ("dog (small)", ["dog"])


def test_chunks() -> None:
    found = prompts_of(["cat", "dog", "truck"], ends=True, chunk=2)
    assert [each.caption for each in found] == ["cat. dog. ", "truck. "]


def test_words_around_a_name() -> None:
    around = {"cat": {"prefix": "the ", "suffix": ", small"}, "dog": {"name": "red dog"}}
    text = {"names": ["cat", "dog"], "caption_prompt": around}
    assert prompts_of(text, ends=True)[0].caption == "the cat, small. red dog. "
    assert words_of(text) == [("cat", ["cat"]), ("dog", ["red", "dog"])]


def test_phrases_of_a_caption() -> None:
    caption = "the cat on the left"
    found = words_of({"caption": caption, "tokens_positive": [[[4, 8]], [[0, 3], [15, 19]]]})
    assert found == [("cat ", ["cat"]), ("the / left", ["the", "left"])]
    (whole,) = prompts_of({"caption": caption, "tokens_positive": -1}, ends=True)
    assert whole.spans is None and whole.caption == caption + ". "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no name"),
        (" . ", "holds no name"),
        ([], "holds no name"),
        (["cat", "(x)"], "an empty one"),
        ([1], "expected names"),
        (None, "expected names"),
        ({"names": "cat", "caption_prompt": 3}, "maps names"),
        ({"names": "cat", "caption_prompt": {"cat": {"suffix": 1}}}, "prefix, name and suffix"),
        ({"caption": "a cat"}, "needs tokens_positive"),
        ({"caption": "cat", "tokens_positive": [[[0, 9]]]}, "within the caption's 3 characters"),
        ({"caption": "cat", "tokens_positive": [3]}, "expected \\[\\[begin, end\\]"),
        (["cat"] * 30_000, "exceed the 20000 accepted"),
    ],
)
def test_wrong_texts(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompts_of(text, ends=True)


def test_texts_of_too_many_or_no_tokens() -> None:
    (prompt,) = prompts_of(["cat"] * 30, ends=True)
    with pytest.raises(InputError, match="62 tokens, but the model reads 40"):
        encode(prompt, TOKENIZER, 40)
    with pytest.raises(InputError, match="has no token that the model knows"):
        encode(prompts_of(["cat", "\u200b"], ends=True)[0], TOKENIZER, 40)


def test_scores_of_names_are_means_of_their_tokens() -> None:
    scores = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    found = class_scores(scores, [[1], [2, 5, 6]])
    wanted = torch.stack((scores[:, 1], scores[:, [2, 5, 6]].mean(1)), 1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(class_scores(scores, None)[:, 0], scores.amax(1))
    assert positive_map([[1], [2, 0]], 4).tolist() == [[0, 1, 0, 0], [1, 0, 1, 0]]


def test_a_vocabulary_and_a_tokenizer_file_agree_with_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    peer = BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
    file = tmp_path / "tokenizer.json"
    peer.backend_tokenizer.save(str(file))
    text = "The CAT, the small Trucks on the left. traffic-lights? döG"
    wanted = peer(text)
    for path in (vocabulary, file):
        found = read_bert_tokenizer(path).encode(text)
        assert found.ids == wanted["input_ids"]
        assert [found.char_to_token(i) for i in range(len(text))] == [
            wanted.char_to_token(i) for i in range(len(text))
        ]


def test_capitals_are_kept_where_the_vocabulary_has_them(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*WORDS, "Cat"]))
    assert read_bert_tokenizer(path).encode("Cat").ids[1] == len(WORDS)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert read_bert_tokenizer(path).encode("Cat").ids[1] == WORDS.index("cat")


def test_files_that_are_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("cat\ndog\n")
    with pytest.raises(BundleError, match="it has no token \\[UNK\\]"):
        read_bert_tokenizer(path, BundleError)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="not UTF-8"):
        read_bert_tokenizer(path, BundleError)
