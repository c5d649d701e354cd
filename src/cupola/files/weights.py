"""Which files of a folder hold a model's weights: one answer for every way of loading."""

import re
from pathlib import Path
from typing import Any

from cupola.errors import CheckpointError
from cupola.files.opening import read_settings

# What transformers and we call a folder's weights, in one file or in shards; the first one counts.
WEIGHT_NAMES = (
    "model.safetensors",
    "weights.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
LARGEST_INDEX = 16 * 2**20  # bytes; BLOOM-176B's has 0.1 MB

# Files beside a model's weights that never hold all of them.
BESIDE = re.compile(
    r"(adapter_model|consolidated|optimizer|scheduler|scaler|training_args|rng_state|model-rank"
    r"|value_head|v_head|non_lora)"
)
NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})")


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder: one whole file, or all shards; or none.

    Files of the usual names and shards of an index come first. Without these, the only
    safetensors file counts, then the only .bin file, or a complete set of numbered shards.
    CheckpointError if it would have to be guessed which file is meant.
    """
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            is_index = name.endswith(".index.json")
            return _shards(folder / name) if is_index else [folder / name]
    for suffix in (".safetensors", ".bin"):
        found = [f for f in sorted(folder.glob(f"*{suffix}")) if not BESIDE.match(f.name)]
        if found:
            return _only(folder, found)
    return []


def _only(folder: Path, found: list[Path]) -> list[Path]:
    """The files themselves where they are one model's."""
    if len(found) == 1 and not NUMBERED.fullmatch(found[0].stem):
        return found
    parts = [NUMBERED.fullmatch(file.stem) for file in found]
    sets = {(part["stem"], part["count"]) for part in parts if part}
    if len(sets) == 1 and all(parts):
        count = int(next(iter(sets))[1])
        numbers = {int(part["number"]) for part in parts if part}
        missing = sorted(set(range(1, count + 1)) - numbers)
        if missing:
            raise CheckpointError(
                f"{folder}: shard {missing[0]} of {count} is missing; download it again"
            )
        return found
    names = ", ".join(file.name for file in found[:5])
    raise CheckpointError(
        f"{folder}: it is not clear which files hold the weights ({names}); pass one of them, or "
        f"rename the one that is meant to {WEIGHT_NAMES[0]}"
    )


def _shards(index: Path) -> list[Path]:
    content = read_settings(index, CheckpointError, LARGEST_INDEX)
    try:
        names: list[Any] = sorted(set(content["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a shard index ({error!r})") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} is outside the folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name}: no such file, but {index.name} names it")
    return [index.parent / name for name in names]
