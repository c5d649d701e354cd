"""Text for language models: tokenizer training, packing into one sequence, windows of it.

A packed folder holds tokenizer.json, train.npy and val.npy (uint16 or uint32 ids, documents
joined by the end-of-text token), and about.json (bytes and tokens of each part).
"""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from cupola.errors import DataError
from cupola.files import read_text
from cupola.files.scientific import map_array
from cupola.files.tokenizer import read_tokenizer
from cupola.registry import DATASETS

# The special tokens of BLOOM's own tokenizer, in its order: their ids are 0 to 3.
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
END = 2
EXAMPLE_TOKENS = 16  # in the prompt of a recorded request, and in its answer
HELD_OUT = 20  # every 20th document is for validation


def read_texts(paths: Iterable[Path]) -> list[str]:
    """The documents of UTF-8 files; an empty line or more ends a document. Raises DataError."""
    texts: list[str] = []
    for path in paths:
        content = read_text(path)
        texts += [part.strip() for part in re.split(r"\n\s*\n", content) if part.strip()]
    return texts


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded and is decoded unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pack(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray[Any, Any]:
    """The token ids of all texts, each followed by the end-of-text token."""
    kind = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    rows = [[*encoding.ids, END] for encoding in tokenizer.encode_batch(list(texts))]
    return np.concatenate([np.array(row, kind) for row in rows])


def write_packed(texts: Sequence[str], folder: Path, vocab_size: int) -> dict[str, dict[str, int]]:
    """Writes a packed folder with every 20th text held out; returns bytes and tokens per split."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train": [t for i, t in enumerate(texts) if i % HELD_OUT],
        "val": [t for i, t in enumerate(texts) if i % HELD_OUT == 0],
    }
    if not parts["train"] or not parts["val"]:
        raise DataError(f"{len(texts)} texts are too few to hold some out for validation")
    tokenizer = train_tokenizer(parts["train"], vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {}
    for name, part in parts.items():
        row = pack(part, tokenizer)
        np.save(folder / f"{name}.npy", row)
        about[name] = {
            "documents": len(part),
            "bytes": sum(len(text.encode()) for text in part),
            "tokens": len(row),
        }
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


@DATASETS.register_module()
class PackedText:
    """Windows of `length` tokens from the packed sequence of a folder.

    Training windows start at a different offset in each epoch (from seed and epoch), so that window
    borders vary; validation windows tile the sequence. A window may hold parts of several
    documents. By default tokens attend to earlier documents of the window, as in BLOOM's training;
    with `separate_documents` the batch holds document numbers, and attention stays within one.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        length: int,
        seed: int = 0,
        separate_documents: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.separate_documents = separate_documents
        path = self.folder / f"{split}.npy"
        if not path.is_file():
            raise DataError(f"{path}: no such packed text; write it with `cupola data text`")
        self.tokens = map_array(path)
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise DataError(
                f"{path}: not a row of token ids, but {self.tokens.dtype} of shape "
                f"{list(self.tokens.shape)}"
            )
        self.length, self.split, self.seed = length, split, seed
        if len(self.tokens) < 2 * length:
            raise DataError(
                f"{path}: {len(self.tokens)} tokens are fewer than two windows of {length}"
            )
        self.offset = 0

    def set_epoch(self, epoch: int) -> None:
        """Changes the offset of the training windows."""
        if self.split == "train":
            draw = np.random.default_rng((self.seed, epoch))
            self.offset = int(draw.integers(self.length))

    def add_to_bundle(self, folder: Path) -> None:
        """Copies the tokenizer, which a language bundle needs."""
        shutil.copy(self.folder / "tokenizer.json", folder)

    def write_examples(self, folder: Path) -> None:
        """Writes a server request for the most likely continuation of this split's first tokens."""
        tokenizer = read_tokenizer(self.folder / "tokenizer.json", DataError)
        prompt = tokenizer.decode(self.tokens[:EXAMPLE_TOKENS].tolist())
        tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": [prompt]}
        request = {"inputs": [tensor], "parameters": {"max_tokens": EXAMPLE_TOKENS}}
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(request, ensure_ascii=False) + "\n"
        (folder / "request.json").write_text(text, encoding="utf-8")

    def __len__(self) -> int:
        return (len(self.tokens) - self.length) // self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = self.offset + index * self.length
        window = self.tokens[start : start + self.length + 1].astype(np.int64)
        return {"input_ids": torch.from_numpy(window)}

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """input_ids and labels [B, length + 1]: the model shifts labels itself.

        With `separate_documents` also documents [B, length + 1], document numbers in the window.
        """
        ids = torch.stack([sample["input_ids"] for sample in samples])
        batch = {"input_ids": ids, "labels": ids}
        if self.separate_documents:
            ends = (ids == END).long()
            batch["documents"] = ends.cumsum(1) - ends  # an end token belongs to its document
        return batch
