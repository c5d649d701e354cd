"""Folders of Megatron-DeepSpeed: one file per layer and tensor rank, or one per tensor rank.

    global_step1000/layer_03-model_01-model_states.pt      pipeline checkpoints, as BLOOM's
    global_step1000/mp_rank_01_model_states.pt             DeepSpeed without a pipeline
    iter_0001000/mp_rank_01/model_optim_rng.pt             Megatron-LM

The folder above these names the newest one in a file `latest` (DeepSpeed) or
`latest_checkpointed_iteration.txt` (Megatron-LM).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cupola.errors import CheckpointError
from cupola.files import read_text
from cupola.weights.dialects import megatron
from cupola.weights.families.bloom import BLOOM
from cupola.weights.reading import read_torch

RANK = re.compile(r"mp_rank_([0-9]{1,4})(_model_states\.pt)?")
RANK_FILES = ("model_optim_rng.pt", "model_rng.pt")  # inside mp_rank_XX
VOCABULARY = "vocab_size"  # in our mp_rank files: the rows of the embedding without padding
NEWEST = 3.0  # version of checkpoints that do not say theirs

Readers = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class MegatronFolder:
    """The folder with the files, and each tensor rank's own file, where there is one."""

    path: Path
    layers: tuple[Path, ...]
    ranks: tuple[Path, ...]


def find_megatron(folder: Path) -> MegatronFolder | None:
    """The files in a folder, or in the one that its `latest` names; None where there are none."""
    folder = _latest(folder)
    layers = tuple(f for f in sorted(folder.glob("layer_*")) if megatron.SHARD.fullmatch(f.name))
    ranks = [f for f in sorted(folder.glob("mp_rank_*")) if RANK.fullmatch(f.name)]
    files = tuple(file for each in ranks if (file := _rank_file(each)) is not None)
    return MegatronFolder(folder, layers, files) if layers or files else None


def read_megatron(
    found: MegatronFolder, version: float | None, heads: int | None
) -> tuple[list[Readers], int | None]:
    """For each tensor rank its parameters under our names; and the vocabulary, if it is stated."""
    about = _about(found.ranks[0]) if found.ranks else {}
    stated = about.get("checkpoint_version")
    if version is None:
        version = float(stated) if isinstance(stated, int | float) else NEWEST
    if version < 2 and heads is None:
        raise CheckpointError(f"{found.path}: version {version} needs heads= to reorder its rows")
    vocabulary = about.get(VOCABULARY)
    ranks = _by_layer(found) if found.layers else [_of_rank(file) for file in found.ranks]
    if version < 2 and (heads or 0) % len(ranks):
        raise CheckpointError(
            f"{found.path}: {heads} heads are not a multiple of {len(ranks)} ranks"
        )
    readers: list[Readers] = [{} for _ in ranks]
    for rank, tensors in enumerate(ranks):
        for name, tensor in tensors.items():
            readers[rank][name] = _reordered(name, tensor, version, (heads or 0) // len(ranks))
    return readers, vocabulary if type(vocabulary) is int and vocabulary > 0 else None


def _latest(folder: Path) -> Path:
    for pointer in ("latest", "latest_checkpointed_iteration.txt"):
        path = folder / pointer
        if not path.is_file():
            continue
        name = read_text(path, 1000, CheckpointError).strip()
        name = f"iter_{int(name):07d}" if name.isascii() and name.isdigit() else name
        if not name or Path(name).name != name or not (folder / name).is_dir():
            raise CheckpointError(f"{path}: names {name[:80]!r}, which is no folder beside it")
        return folder / name
    return folder


def _rank_file(path: Path) -> Path | None:
    if path.is_file():
        return path
    return next((path / name for name in RANK_FILES if (path / name).is_file()), None)


def _about(file: Path) -> Mapping[Any, Any]:
    content = read_torch(file)
    return content if isinstance(content, Mapping) else {}


def _by_layer(found: MegatronFolder) -> list[dict[str, Tensor]]:
    matches = [(m, file) for file in found.layers if (m := megatron.SHARD.fullmatch(file.name))]
    size = megatron.count_ranks({(int(m[1]), int(m[2])) for m, _ in matches}, str(found.path))
    last = max(int(match[1]) for match, _ in matches)
    ranks: list[dict[str, Tensor]] = [{} for _ in range(size)]
    for match, file in matches:
        for key, tensor in read_torch(file).items():
            if isinstance(tensor, Tensor):
                ranks[int(match[2])][megatron.our_key(int(match[1]), key, last)] = tensor
    return ranks


def _of_rank(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of one rank, whose modules are nested dicts or one flat dict."""
    content = _about(file)
    module = content.get("module") or content.get("model")
    flat = dict(_flattened(module)) if isinstance(module, Mapping) else {}
    if not flat:
        raise CheckpointError(f"{file}: contains no weights under 'module' or 'model'")
    if any(tensor.numel() == 0 for tensor in flat.values()):
        raise CheckpointError(
            f"{file}: its weights are partitioned by ZeRO stage 3; join them with DeepSpeed's "
            "zero_to_fp32.py first"
        )
    pairs = ((megatron.whole_key(key), tensor) for key, tensor in flat.items())
    return {key: tensor for key, tensor in pairs if key is not None}


def _flattened(
    content: Mapping[Any, Any], prefix: str = "", depth: int = 8
) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for key, value in content.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{key}", value))
        elif isinstance(value, Mapping) and depth:
            found += _flattened(value, f"{prefix}{key}.", depth - 1)
    return found


def _reordered(name: str, tensor: Tensor, version: float, heads: int) -> Callable[[], Tensor]:
    assert BLOOM.fused is not None
    if BLOOM.fused.name not in name:
        return lambda: tensor
    return lambda: megatron.to_our_rows(tensor, version, heads)
