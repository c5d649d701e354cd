"""TextSearch: the texts of a batch become tokens, one chunk of names after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.errors import InputError
from cupola.models.bert import BertModel, Tokens, pad_tokens
from cupola.models.grounding.prompts import (
    EXAMPLE,
    EncodedPrompt,
    Text,
    TextTokenizer,
    encode,
    positive_map,
    prompts_of,
)
from cupola.structures import Detections

MAX_ROUNDS = 64  # searches of one image; LVIS's 1,203 names take 31 of 40


@dataclass(frozen=True)
class Round:
    """A part of the names of some images: their places in the batch, prompts and tokens."""

    images: list[int]
    prompts: list[EncodedPrompt]
    tokens: Tokens


Find = Callable[[Round], list[Detections]]


@dataclass
class TextSearch:
    """How a detector reads texts; `tokenizer` is set by whoever loads the model's files.

    `ends` puts a separator after the last name, too. `chunk` names are searched for at a time.
    Batches without texts are searched for `text`, which a training sets.
    """

    language_model: BertModel
    ends: bool
    chunk: int = -1
    tokenizer: TextTokenizer | None = None
    text: Text | None = None

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
        found = []
        for text in texts:
            prompts = prompts_of(text, self.ends, self.chunk)
            if len(prompts) > MAX_ROUNDS:
                raise InputError(
                    f"the text's names take {len(prompts)} searches, {self.chunk} names each; "
                    f"an image may take {MAX_ROUNDS}: name fewer, or raise chunked_size"
                )
            found.append([encode(each, self.tokenizer, most, hint) for each in prompts])
        return found

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

    def example(self) -> Tokens:
        """A text of ten tokens whose ids say nothing, for models without a tokenizer."""
        model = self.language_model
        ids = torch.arange(10) % model.settings.vocab_size
        return pad_tokens(
            [ids.tolist()], [0, 3, 6, 9], model.max_tokens if model.pad_to_max else None
        )

    def rounds(self, batch: Mapping[str, Any]) -> Iterator[Round]:
        """The prompts of a batch's "texts", image by image, chunk by chunk. InputError."""
        chunks = self.encode(self.texts(batch))
        for number in range(max((len(each) for each in chunks), default=0)):
            images = [i for i, each in enumerate(chunks) if len(each) > number]
            prompts = [chunks[i][number] for i in images]
            yield Round(images, prompts, self.tokens(prompts))

    def predict(self, batch: Mapping[str, Any], find: Find) -> list[Detections]:
        """What `find` gives for each round, put together for every image."""
        parts: list[list[tuple[Detections, EncodedPrompt]]] = [[] for _ in batch["image_sizes"]]
        for each in self.rounds(batch):
            for i, found, prompt in zip(each.images, find(each), each.prompts, strict=True):
                parts[i].append((found, prompt))
        return [join(each) for each in parts]

    def whole_prompts(self, batch: Mapping[str, Any]) -> list[EncodedPrompt]:
        """One prompt of every text of a batch for training, of all its names. InputError."""
        return [chunks[0] for chunks in replace(self, chunk=-1).encode(self.texts(batch))]

    def texts(self, batch: Mapping[str, Any]) -> Sequence[Text]:
        """The text of each image of a batch; InputError where there is none."""
        if (texts := batch.get("texts")) is not None:
            found: Sequence[Text] = texts
            return found
        if self.text is None:
            raise InputError(f"the model searches for a text, and there is none; {EXAMPLE}")
        return [self.text] * len(batch["pixels"])


def with_tokens_of_names(
    targets: Sequence[Mapping[str, Tensor]],
    prompts: Sequence[EncodedPrompt],
    mask: Tensor,
    width: int,
) -> list[dict[str, Tensor]]:
    """The targets with positive_map [N, W], the tokens of each object's name, and text_mask [W].

    mask [B, T] is True at tokens, W is `width`. InputError for a label that the text has not.
    """
    found = []
    words = F.pad(mask, (0, width - mask.shape[1]))
    for each, prompt, row in zip(targets, prompts, words, strict=True):
        rows = positive_map(prompt.tokens or [range(len(prompt.ids))], width)
        labels = each["labels"]
        if len(labels) and int(labels.max()) >= len(rows):
            raise InputError(
                f"an object has label {int(labels.max())}, but the text has {len(rows)} names"
            )
        maps = rows.to(row.device)[labels]
        found.append({**each, "positive_map": maps, "text_mask": row})
    return found


def join(found: Sequence[tuple[Detections, EncodedPrompt]]) -> Detections:
    """What the chunks of one text found, best first; labels count over all its names."""
    names: list[str] = []
    labels: list[Tensor] = []
    for detections, prompt in found:
        labels.append(detections.labels + len(names))
        names += prompt.prompt.names
    boxes = torch.cat([each.boxes for each, _ in found])
    scores, order = torch.cat([each.scores for each, _ in found]).sort(descending=True, stable=True)
    return Detections(boxes[order], scores, torch.cat(labels)[order], names=tuple(names))
