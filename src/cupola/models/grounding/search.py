"""TextSearch: the texts of a batch become tokens, one chunk of names after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.models.bert import BertModel, Tokens, pad_tokens
from cupola.models.grounding.prompts import (
    EXAMPLE,
    EncodedPrompt,
    Text,
    TextTokenizer,
    encode,
    prompts_of,
)
from cupola.structures import Detections


@dataclass(frozen=True)
class Round:
    """A part of the names of some images: their places in the batch, prompts and tokens."""

    images: list[int]
    prompts: list[EncodedPrompt]
    tokens: Tokens


@dataclass
class TextSearch:
    """How a detector reads texts; `tokenizer` is set by whoever loads the model's files.

    `ends` puts a separator after the last name, too. `chunk` names are searched for at a time.
    """

    language_model: BertModel
    ends: bool
    chunk: int = -1
    tokenizer: TextTokenizer | None = None

    def set_tokenizer(self, tokenizer: TextTokenizer, where: str) -> None:
        """Takes a tokenizer; InputError for one of another model."""
        words = self.language_model.settings.vocab_size
        size = getattr(tokenizer, "get_vocab_size", lambda: words)()
        if size > words:
            raise InputError(
                f"{where}: a tokenizer with {size} tokens, but the language model has {words}"
            )
        self.tokenizer = tokenizer

    def encode(self, texts: Sequence[Text]) -> list[list[EncodedPrompt]]:
        """The chunks of the prompt of every text, with their tokens. InputError."""
        if self.tokenizer is None:
            raise InputError("the model has no tokenizer with which to read a text")
        most = self.language_model.max_tokens
        hint = "name fewer, or search for some at a time: --set model.test_cfg.chunked_size=40"
        return [
            [
                encode(each, self.tokenizer, most, hint)
                for each in prompts_of(text, self.ends, self.chunk)
            ]
            for text in texts
        ]

    def tokens(self, prompts: Sequence[EncodedPrompt]) -> Tokens:
        """Tokens of one prompt per image, padded as the language model wants it."""
        model = self.language_model
        assert self.tokenizer is not None
        separators = [self.tokenizer.token_to_id(token) for token in model.special_tokens]
        if None in separators:
            missing = model.special_tokens[separators.index(None)]
            raise InputError(f"the model's tokenizer has no token {missing!r}")
        width = model.max_tokens if model.pad_to_max else None
        ids = [each.ids for each in prompts]
        return pad_tokens(ids, [each for each in separators if each is not None], width)

    def rounds(self, batch: Mapping[str, Any]) -> Iterator[Round]:
        """The prompts of a batch's "texts", image by image, chunk by chunk. InputError."""
        texts = batch.get("texts")
        if texts is None:
            raise InputError(f"the model searches for a text, and there is none; {EXAMPLE}")
        chunks = self.encode(texts)
        for number in range(max((len(each) for each in chunks), default=0)):
            images = [i for i, each in enumerate(chunks) if len(each) > number]
            prompts = [chunks[i][number] for i in images]
            yield Round(images, prompts, self.tokens(prompts))


def join(found: Sequence[tuple[Detections, EncodedPrompt]]) -> Detections:
    """What the chunks of one text found, best first; labels count over all its names."""
    names: list[str] = []
    labels: list[Tensor] = []
    for detections, prompt in found:
        labels.append(detections.labels + len(names))
        names += prompt.prompt.names
    boxes = torch.cat([each.boxes for each, _ in found])
    scores = torch.cat([each.scores for each, _ in found])
    if len(found) == 1:
        return Detections(boxes, scores, labels[0], names=tuple(names))
    scores, order = scores.sort(descending=True, stable=True)
    return Detections(boxes[order], scores, torch.cat(labels)[order], names=tuple(names))
