"""Language-model checkpoints that are read a slice at a time, in any layout.

Layouts are ours, that of transformers (one file or shards, safetensors or pickled), and the shards
of Megatron-DeepSpeed. Every source uses our names. Files are memory-mapped: only the pages of the
requested slice are read, and no tensor is kept beyond the one that is returned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.weights.dialects import megatron
from cupola.weights.families import LanguageFamily, family_of
from cupola.weights.families.bloom import BLOOM
from cupola.weights.reading import check_header, read_checkpoint, read_torch, weight_files

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Disagreement:
    """A replicated parameter whose copies differ between the ranks' shards."""

    key: str
    largest: float


class Source(ABC):
    """A checkpoint of one family under our names."""

    family: LanguageFamily
    disagreements: list[Disagreement]

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Every parameter and its whole shape."""

    @abstractmethod
    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows `start` up to `stop` of a parameter along `dim`."""

    def whole(self, key: str) -> Tensor:
        """All of a parameter."""
        return self.read(key, 0, 0, self.shapes()[key][0])


class SafetensorsSource(Source):
    """One or several safetensors files, in our names or transformers'."""

    def __init__(self, files: list[Path]) -> None:
        self.disagreements = []
        opened = {path: _open(path) for path in files}
        places = {key: path for path, file in opened.items() for key in file.keys()}  # noqa: SIM118
        self.family = family_of(places, str(files[0].parent))
        self._slices: dict[str, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for key, path in places.items():
            if (ours := self.family.our_key(key)) is not None:
                self._slices[ours] = opened[path].get_slice(key)
                self._places[ours] = path, key

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
        self.family = family_of(state, str(files[0].parent))
        pairs = ((self.family.our_key(key), tensor) for key, tensor in state.items())
        self._tensors = {key: tensor for key, tensor in pairs if key is not None}

    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        return self._tensors[key].narrow(dim, start, stop - start)


class ShardSource(Source):
    """Files that each hold every parameter's part for one tensor rank.

    `ranks[r]` maps our names to functions that read rank r's part.
    """

    def __init__(self, ranks: list[dict[str, Callable[[], Tensor]]], where: str) -> None:
        self._ranks = ranks
        self.disagreements = []
        self.family = family_of(ranks[0], where)
        if any(part.keys() != ranks[0].keys() for part in ranks):
            raise CheckpointError("the ranks' shards do not hold the same parameters")

    def shapes(self) -> dict[str, Shape]:
        found = {}
        for key, opener in self._ranks[0].items():
            shape = list(opener().shape)
            if (dim := self.family.split_dim(key)) is not None:
                shape[dim] = sum(part[key]().shape[dim] for part in self._ranks)
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


def open_source(path: str | Path, *, version: float = 3.0, heads: int | None = None) -> Source:
    """The source in a file or folder, by what it contains. Raises CheckpointError.

    `version` is the Megatron checkpoint version; before 2.0 the rows of query_key_value must be
    reordered, for which `heads`, the number of all heads, is needed.
    """
    path = Path(path)
    if parts := sorted(path.glob("model-rank*.safetensors")):
        return ShardSource([_safetensors_rank(part) for part in parts], str(path))
    files = [path] if path.is_file() else weight_files(path) or sorted(path.glob("*.safetensors"))
    if files:
        pickled = any(file.suffix != ".safetensors" for file in files)
        return PickledSource(files) if pickled else SafetensorsSource(files)
    if any(megatron.SHARD.fullmatch(file.name) for file in path.glob("layer_*")):
        return ShardSource(_megatron_ranks(path, version, heads), str(path))
    raise CheckpointError(
        f"{path}: contains no safetensors files, pytorch_model.bin or layer_XX-model_YY shards"
    )


def _open(path: Path) -> Any:
    check_header(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _safetensors_rank(path: Path) -> dict[str, Callable[[], Tensor]]:
    file = _open(path)
    return {key: _getter(file, key) for key in file.keys()}  # noqa: SIM118


def _getter(file: Any, key: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(key)


def _megatron_ranks(
    folder: Path, version: float, heads: int | None
) -> list[dict[str, Callable[[], Tensor]]]:
    found = [(m, f) for f in folder.iterdir() if (m := megatron.SHARD.fullmatch(f.name))]
    size = megatron.count_ranks({(int(m[1]), int(m[2])) for m, _ in found}, str(folder))
    last = max(int(match[1]) for match, _ in found)
    assert BLOOM.fused is not None
    if version < 2 and heads is None:
        raise CheckpointError(f"{folder}: version {version} needs heads= to reorder its rows")
    ranks: list[dict[str, Callable[[], Tensor]]] = [{} for _ in range(size)]
    for match, path in sorted(found, key=lambda pair: pair[1].name):
        state = read_torch(path)
        for key, tensor in state.items():
            if isinstance(tensor, Tensor):
                name = megatron.our_key(int(match[1]), key, last)
                rows = (heads or 0) // size if BLOOM.fused.name in key else 0
                ranks[int(match[2])][name] = _reordered(tensor, version if rows else 3.0, rows)
    return ranks


def _reordered(tensor: Tensor, version: float, heads: int) -> Callable[[], Tensor]:
    return lambda: megatron.to_our_rows(tensor, version, heads)
