"""Language-model checkpoints that are read a slice at a time, in any layout.

Layouts are ours, that of transformers (one file or shards, safetensors or pickled), and the shards
of Megatron-DeepSpeed. Every source uses our names. Files are memory-mapped: only the pages of the
requested slice are read, and no tensor is kept beyond the one that is returned.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.files.adapters import base_folder, is_adapter
from cupola.files.weights import weight_files
from cupola.weights.adapters import AdaptedSource
from cupola.weights.cleaning import without_training_keys
from cupola.weights.families import LanguageFamily, family_of
from cupola.weights.megatron_folder import find_megatron, read_megatron
from cupola.weights.quantized import refuse_quantized
from cupola.weights.reading import check_header, read_checkpoint
from cupola.weights.source import Disagreement, Shape, Source

RANK_FILES = "model-rank*.safetensors"  # as `reshard` writes them


class SafetensorsSource(Source):
    """One or several safetensors files, in our names or transformers'."""

    def __init__(self, files: list[Path]) -> None:
        self.disagreements = []
        opened = {path: _open(path) for path in files}
        places = {key: path for path, file in opened.items() for key in file.keys()}  # noqa: SIM118
        names, self.family, self.notes = _named(places, files)
        self._slices: dict[str, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for ours, key in names.items():
            self._slices[ours] = opened[places[key]].get_slice(key)
            self._places[ours] = places[key], key

    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(part.get_shape()) for key, part in self._slices.items()}

    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        part = self._slices[key]
        if dim == 0 or stop - start == part.get_shape()[dim]:
            rows: Tensor = part[start:stop] if dim == 0 else part[:]
            return rows
        # Columns touch nearly every page: with a mapping of their own the pages go after the copy.
        path, name = self._places[key]
        with safe_open(path, framework="pt") as file:
            columns: Tensor = file.get_slice(name)[:, start:stop]
            return columns.clone(memory_format=torch.contiguous_format)


class PickledSource(Source):
    """One or several files of PyTorch's own format, in our names or transformers'."""

    def __init__(self, files: list[Path]) -> None:
        self.disagreements = []
        state = {key: tensor for path in files for key, tensor in read_checkpoint(path).items()}
        names, self.family, self.notes = _named(state, files)
        self._tensors = {ours: state[key] for ours, key in names.items()}

    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        return self._tensors[key].narrow(dim, start, stop - start)


class ShardSource(Source):
    """Files that each hold every parameter's part for one tensor rank.

    `ranks[r]` maps our names to functions that read rank r's part. `vocabulary` is the number of
    the embedding's rows without the padding that made the ranks' parts equal, where it is known.
    """

    def __init__(
        self, ranks: list[dict[str, Callable[[], Tensor]]], where: str, vocabulary: int | None
    ) -> None:
        self._ranks = ranks
        self.disagreements, self.notes = [], []
        self.family = family_of(ranks[0], where)
        self._vocabulary = vocabulary
        self.padded = vocabulary is None
        if any(part.keys() != ranks[0].keys() for part in ranks):
            raise CheckpointError("the ranks' shards do not hold the same parameters")

    def shapes(self) -> dict[str, Shape]:
        found = {}
        for key, opener in self._ranks[0].items():
            shape = list(opener().shape)
            if (dim := self.family.split_dim(key)) is not None:
                shape[dim] = sum(part[key]().shape[dim] for part in self._ranks)
                if self.family.is_vocabulary(key) and self._vocabulary is not None:
                    shape[dim] = min(shape[dim], self._vocabulary)
            found[key] = tuple(shape)
        return found

    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        split = self.family.split_dim(key)
        if split is None:
            return self._mean(key).narrow(dim, start, stop - start)
        if split != dim:
            whole = torch.cat([part[key]() for part in self._ranks], split)
            return whole.narrow(dim, start, stop - start)
        found, offset = [], 0
        for part in self._ranks:
            tensor = part[key]()
            length = tensor.shape[dim]
            first, last = max(start - offset, 0), min(stop - offset, length)
            if first < last:
                found.append(tensor.narrow(dim, first, last - first))
            offset += length
        return torch.cat(found, dim)

    def _mean(self, key: str) -> Tensor:
        """The mean of the replicas, as BLOOM's own converter takes it; differences are recorded."""
        copies = [part[key]() for part in self._ranks]
        largest = max(float((copy - copies[0]).abs().max()) for copy in copies)
        if largest == 0:
            return copies[0]
        noted = Disagreement(key, largest)
        if noted not in self.disagreements:
            self.disagreements.append(noted)
        return torch.stack(copies).float().mean(0).to(copies[0].dtype)


def open_source(
    path: str | Path, *, version: float | None = None, heads: int | None = None
) -> Source:
    """The source in a file or folder, by what it contains. Raises CheckpointError.

    `version` is the Megatron checkpoint version, by default the one that the files state, or 3;
    before 2.0 the rows of query_key_value must be reordered, for which `heads`, the number of all
    heads, is needed.
    """
    path = Path(path)
    if is_adapter(path):
        return AdaptedSource(open_plain(base_folder(path), version, heads), path)
    return open_plain(path, version, heads)


def open_plain(path: Path, version: float | None = None, heads: int | None = None) -> Source:
    """The source in a file or folder, adapters beside the weights left out."""
    if parts := sorted(path.glob(RANK_FILES)):
        return _our_ranks(path, parts)
    files = [path] if path.is_file() else weight_files(path)
    if files:
        pickled = any(file.suffix != ".safetensors" for file in files)
        return PickledSource(files) if pickled else SafetensorsSource(files)
    if found := find_megatron(path):
        ranks, vocabulary = read_megatron(found, version, heads)
        return ShardSource(ranks, str(path), vocabulary)
    raise CheckpointError(
        f"{path}: contains no safetensors files, pytorch_model.bin, or files of Megatron "
        "(layer_XX-model_YY, mp_rank_XX)"
    )


def is_assembled(path: Path) -> bool:
    """Whether a folder's weights must be put together: ranks' files, Megatron's, or adapters."""
    if not path.is_dir():
        return False
    if is_adapter(path) or any(path.glob(RANK_FILES)):
        return True
    return not weight_files(path) and find_megatron(path) is not None


def _named(
    keys: Collection[str], files: list[Path]
) -> tuple[dict[str, str], LanguageFamily, list[str]]:
    """Our names and the keys that they have in the files, the family, and notes."""
    where = str(files[0].parent)
    refuse_quantized(keys, where)
    cleaned, notes = without_training_keys(keys)
    family = family_of(cleaned, where)
    pairs = ((family.our_key(name), key) for name, key in cleaned.items())
    return {ours: key for ours, key in pairs if ours is not None}, family, notes


def _our_ranks(folder: Path, parts: list[Path]) -> ShardSource:
    """Files that `reshard` wrote; CheckpointError if some are missing."""
    numbers = [int(match[0]) for part in parts if (match := re.search(r"\d+", part.stem))]
    about = _open(parts[0]).metadata() or {}
    count = _stated(about, "ranks", folder) or len(parts)
    if numbers != list(range(count)):
        raise CheckpointError(f"{folder}: has files of ranks {numbers}, expected 0..{count - 1}")
    rows = _stated(about, "vocab_size", folder)
    return ShardSource([_safetensors_rank(part) for part in parts], str(folder), rows)


def _stated(about: Mapping[str, str], key: str, folder: Path) -> int | None:
    text = about.get(key)
    if text is not None and not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise CheckpointError(f"{folder}: its files state {key} {text!r:.40}")
    return None if text is None else int(text)


def _open(path: Path) -> Any:
    check_header(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({str(error).splitlines()[0]})"
        ) from None


def _safetensors_rank(path: Path) -> dict[str, Callable[[], Tensor]]:
    file = _open(path)
    return {key: _getter(file, key) for key in file.keys()}  # noqa: SIM118


def _getter(file: Any, key: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(key)


__all__ = [
    "Disagreement",
    "PickledSource",
    "SafetensorsSource",
    "Shape",
    "ShardSource",
    "Source",
    "is_assembled",
    "open_source",
]
