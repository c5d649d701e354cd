"""Checkpoints that are always complete, whenever the process is killed.

A checkpoint is written to a temporary file, flushed to disk and renamed over the old one. It holds
what a run needs to resume exactly: weights, moving average, optimizer, random states, and the step,
which is also the position in the data.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cupola.errors import CheckpointError
from cupola.parallel import Group
from cupola.weights.reading import read_torch

FOLDER = "shards"  # key of the folder of a sharded checkpoint
LATEST = "latest.pth"
BEST = "best.pth"


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path`; readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for left in path.parent.glob(f".{path.name}.*"):  # of processes that were killed
        left.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # makes the rename durable
    os.close(folder)


def save_gathered(state: dict[str, Any], path: Path, data: Group) -> None:
    """Writes `state` with whole tensors from the first rank. All ranks of `data` call it."""
    from cupola.train.sharded import gathered  # takes a second to import

    state = gathered(state)
    if data.rank == 0:
        save_atomically(state, path)
        _remove_shards(path)


def _remove_shards(path: Path, kept: Path | None = None) -> None:
    """Removes the folders of earlier checkpoints at `path`."""
    for folder in path.parent.glob(f"{path.stem}-*-*"):
        if folder.is_dir() and folder != kept:
            shutil.rmtree(folder)


def save_sharded(state: dict[str, Any], path: Path, data: Group) -> None:
    """Writes `state`, its split tensors in a folder beside `path`. All ranks of `data` call it.

    Readers see the old checkpoint or the new one: the file names its folder.
    """
    from cupola.train.sharded import save_shards  # takes a second to import

    folder = path.with_name(f"{path.stem}-{state['step']}-{state['validated']}")
    state = save_shards(state, folder, data)
    if data.rank == 0:
        save_atomically({**state, FOLDER: folder.name}, path)
        _remove_shards(path, folder)


def load_checkpoint(path: Path, like: Any = None) -> dict[str, Any]:
    """Read a training checkpoint, whole or sharded; `like` is that of sharded.load_shards.

    Raises CheckpointError when the file is missing or holds no training state.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; nothing to resume")
    state = read_torch(path)
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path} has no training state; use load_from for plain weights")
    folder = state.pop(FOLDER, None)
    if folder is None and like is None:
        return state
    from cupola.train.sharded import load_shards

    name = Path(str(folder)).name  # a checkpoint names no folder elsewhere
    loaded: dict[str, Any] = load_shards(state, path.with_name(name), like)
    return loaded


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Resets the generators to a `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def training_state(path: Path) -> dict[str, torch.Tensor] | None:
    """The weights in a training checkpoint of Cupola; None if the file is something else."""
    if path.suffix not in (".pth", ".pt"):
        return None
    try:
        state: dict[str, torch.Tensor] = load_checkpoint(path)["model"]
    except (CheckpointError, KeyError):
        return None
    return state
