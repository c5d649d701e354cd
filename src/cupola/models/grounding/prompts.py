"""From the names to search for to a caption, and which of its tokens stand for each name.

A text is one of

- "cat . traffic light ." - names between full stops;
- ["cat", "traffic_light"] - a list of names;
- {"names": ["cat"], "caption_prompt": {"cat": {"prefix": "", "name": "cat", "suffix": ", small"}}},
  where words around a name describe it without belonging to it;
- {"caption": "the cat on the left", "tokens_positive": [[[4, 7]]]} - phrases by their characters
  (begin, end), or -1 for the whole caption as one phrase.

Free captions without such spans are not cut into noun phrases, which the original asks nltk for.

Letters: N names, T tokens, Q queries or anchors.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cupola.errors import InputError

Text = str | Sequence[str] | Mapping[str, Any]
Span = tuple[int, int]
MOST_NAMES, LONGEST = 20_000, 200_000  # names of a text; characters of a caption
SEPARATOR = ". "
EXAMPLE = "name what to look for, such as 'cat . dog .'"


class TextTokenizer(Protocol):
    """What a detector asks of a tokenizer, as the `tokenizers` library has it."""

    def encode(self, text: str) -> Any:
        """`ids`, and `char_to_token(position)`, which gives None between words."""

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None."""


@dataclass(frozen=True)
class Prompt:
    """A caption, the names in it, and the characters (begin, end) of each name.

    Without spans the caption as a whole is the one name.
    """

    caption: str
    names: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...] | None


@dataclass(frozen=True)
class EncodedPrompt:
    """ids of the caption's tokens, and the tokens of each name; None for all of them."""

    prompt: Prompt
    ids: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...] | None


def prompts_of(text: Text, ends: bool, chunk: int = -1) -> list[Prompt]:
    """One prompt, or one for every `chunk` names; with `ends` a separator follows the last name.

    InputError for a text without a name, and for one of another type.
    """
    if isinstance(text, Mapping) and "caption" in text:
        return [_of_caption(text)]
    around: Any = {}
    names: Any = text
    if isinstance(text, Mapping):
        names, around = text.get("names"), text.get("caption_prompt") or {}
    if isinstance(names, str):
        names = [name.strip() for name in names.split(".") if name.strip()]
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"text: expected names, got {names!r:.100}; {EXAMPLE}")
    if not names or not all(clean(name) for name in names):
        raise InputError(f"text: holds no name, or an empty one; {EXAMPLE}")
    if len(names) > MOST_NAMES:
        raise InputError(f"text: {len(names)} names exceed the {MOST_NAMES} accepted")
    if not isinstance(around, Mapping):
        raise InputError("text: caption_prompt maps names to what is around them")
    size = chunk if chunk > 0 else len(names)
    return [_joined(names[i : i + size], around, ends) for i in range(0, len(names), size)]


def clean(name: str) -> str:
    """A name as it is put into a caption: without parentheses and underscores.

    Source: clean_label_name of mmdet/models/detectors/glip.py.
    """
    spaced = re.sub(r"\(.*\)", "", name).replace("_", " ")
    return spaced.replace("  ", " ").strip()


def _joined(names: Sequence[str], around: Mapping[str, Any], ends: bool) -> Prompt:
    caption, spans = "", []
    for number, name in enumerate(names):
        word = clean(name)
        about = around.get(name, around.get(word, {}))
        if not isinstance(about, Mapping) or not all(isinstance(v, str) for v in about.values()):
            raise InputError("text: caption_prompt gives prefix, name and suffix of a name, texts")
        caption += about.get("prefix", "")
        begin = len(caption)
        caption += about.get("name", word)
        spans.append(((begin, len(caption)),))
        caption += about.get("suffix", "")
        if ends or number < len(names) - 1:
            caption += SEPARATOR
    if len(caption) > LONGEST:
        raise InputError(f"text: {len(caption)} characters exceed the {LONGEST} accepted")
    return Prompt(caption, tuple(names), tuple(spans))


def _of_caption(text: Mapping[str, Any]) -> Prompt:
    caption, found = text["caption"], text.get("tokens_positive")
    if not isinstance(caption, str) or not caption.strip() or len(caption) > LONGEST:
        raise InputError("text: caption is a text with at least one word")
    end = "" if caption.endswith(".") else SEPARATOR
    if found == -1:
        return Prompt(caption + end, (caption,), None)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise InputError(
            "text: a caption needs tokens_positive, the characters [[begin, end], ...] of each "
            f"phrase, or -1 for all of it; noun phrases are not searched for; or {EXAMPLE}"
        )
    spans = tuple(_spans(phrase, len(caption)) for phrase in found)
    names = tuple(" / ".join(caption[begin:stop] for begin, stop in phrase) for phrase in spans)
    return Prompt(caption + end, names, spans)


def _spans(phrase: Any, length: int) -> tuple[Span, ...]:
    try:
        found = tuple((int(begin), int(end)) for begin, end in phrase)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(0 <= begin < end <= length for begin, end in found):
        raise InputError(
            f"text: a phrase of tokens_positive is {phrase!r:.60}; expected [[begin, end], ...] "
            f"within the caption's {length} characters"
        )
    return found


def encode(prompt: Prompt, tokenizer: TextTokenizer, most: int, hint: str = "") -> EncodedPrompt:
    """The tokens of a prompt and of its names; InputError if there are more than `most`."""
    encoding = tokenizer.encode(prompt.caption)
    ids = tuple(encoding.ids)
    if len(ids) > most:
        raise InputError(f"text: {len(ids)} tokens, but the model reads {most}; {hint}")
    if prompt.spans is None:
        return EncodedPrompt(prompt, ids, None)
    tokens = tuple(tokens_of(encoding, phrase) for phrase in prompt.spans)
    for name, found in zip(prompt.names, tokens, strict=True):
        if not found:
            raise InputError(f"text: {name!r:.60} has no token that the model knows")
    return EncodedPrompt(prompt, ids, tokens)


def tokens_of(encoding: Any, phrase: Sequence[Span]) -> tuple[int, ...]:
    """The tokens of a phrase's characters. An end that is a space moves up to two inwards.

    Source: create_positive_map of mmdet/models/detectors/glip.py.
    """
    found: set[int] = set()
    for begin, end in phrase:
        first = _first(encoding, begin, begin + 1, begin + 2)
        last = _first(encoding, end - 1, end - 2, end - 3)
        if first is not None and last is not None:
            found.update(range(first, last + 1))
    return tuple(sorted(found))


def _first(encoding: Any, *positions: int) -> int | None:
    for position in positions:
        if position >= 0 and (token := encoding.char_to_token(position)) is not None:
            return int(token)
    return None


def positive_map(tokens: Sequence[Sequence[int]], width: int) -> Tensor:
    """The tokens of each name -> [N, width], 1 at its tokens."""
    found = torch.zeros(len(tokens), width)
    for row, each in enumerate(tokens):
        found[row, list(each)] = 1
    return found


def class_scores(scores: Tensor, tokens: Sequence[Sequence[int]] | None) -> Tensor:
    """Scores of tokens [Q, T] in 0..1 -> scores of names [Q, N], the mean over a name's tokens.

    Without tokens of names the best token counts, [Q, 1].
    """
    if tokens is None:
        return scores.max(-1, keepdim=True).values
    weights = positive_map(tokens, scores.shape[-1]).to(scores)
    return scores @ (weights / weights.sum(-1, keepdim=True)).T
