"""Maps the weights of a model from one file that all its runners share.

A bundle's weights may differ from those in memory: float16 on disk and float32 in memory, or batch
norms folded into the preceding convolutions (cupola.runtime.optimize.folding). Each runner would
then have its own copy. Therefore the first runner of a generation writes its weights to the
generation's folder in shared memory, and all runners map them from there.
"""

import fcntl
import os
from bisect import bisect_right
from pathlib import Path
from typing import Any

from cupola.bundles import Bundle
from cupola.runtime import Predictor

MAPPED_ENOUGH = 0.9  # share of the weights in mapped files that makes another file unnecessary
SMALL = 8 * 1024**2  # bytes; smaller models are not shared
NHWC = "@nhwc"  # name suffix of channels-last weights, which the format cannot represent


def load_shared(
    source: str, folder: Path, name: str, weights: Path | None = None, fold: bool = True
) -> Predictor:
    """Loads a predictor with weights mapped from a shared file, or private ones if impossible.

    `weights` is the server's own copy of the bundle's weights. With `fold`, batch norms are folded
    into the convolutions before them.
    """
    if "model" not in Bundle.load(source).config:  # there are no weights to share
        return Predictor.load(source)
    folder.mkdir(exist_ok=True)
    shared = folder / f"{name}.safetensors"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            predictor = Predictor.load(source, weights=weights)
            if fold:
                _fold(predictor)
            if _worth_it(predictor.model) and _write(predictor.model, shared):
                _adopt(predictor.model, shared)
            return predictor
    predictor = Predictor.load(source, weights=weights)
    if fold and _fold(predictor):
        _adopt(predictor.model, shared)
        return predictor
    return Predictor.load(source, weights=shared)


def _fold(predictor: Predictor) -> bool:
    """Folds the batch norms of the model; False if it has none."""
    from cupola.runtime.optimize.folding import fold_batch_norms, foldable
    from cupola.runtime.optimize.machine import remember_digest
    from cupola.runtime.optimize.selection import is_measured

    if predictor.model is None or not foldable(predictor.model):
        return False
    if is_measured(predictor.model):  # hashing takes 0.1 s for 150 MB
        remember_digest(predictor.model, predictor.config)
    predictor.model = fold_batch_norms(predictor.model, share=True)
    return True


def _worth_it(model: Any) -> bool:
    tensors = _tensors(model)
    total = sum(tensor.nbytes for tensor in tensors.values())
    return total > SMALL and mapped_bytes(model) < MAPPED_ENOUGH * total


def _tensors(model: Any) -> dict[str, Any]:
    return dict(model.state_dict()) if hasattr(model, "state_dict") else {}


def mapped_bytes(model: Any) -> int:
    """The number of bytes of a model's weights in mapped files."""
    starts, ends = [], []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *path = line.split(maxsplit=5)
        if inode != "0" and path:  # of a download, the name is a hash
            start, _, end = span.partition("-")
            starts.append(int(start, 16))
            ends.append(int(end, 16))
    found = 0
    for tensor in _tensors(model).values():
        place = bisect_right(starts, tensor.data_ptr()) - 1
        if place >= 0 and tensor.data_ptr() < ends[place]:
            found += tensor.nbytes
    return found


def make_private(model: Any) -> None:
    """Copies weights in mapped files to memory, where nobody else can change them."""
    tensors = _tensors(model)
    if tensors and mapped_bytes(model):
        model.load_state_dict({key: one.clone() for key, one in tensors.items()}, assign=True)


def _write(model: Any, path: Path) -> bool:
    """Writes the weights as they are in memory; False if the disk is full or they share memory."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(dict(_laid_out(key, tensor) for key, tensor in _tensors(model).items()), part)
        part.replace(path)
    except (SafetensorError, OSError, RuntimeError, ValueError):
        part.unlink(missing_ok=True)
        return False
    return True


def _laid_out(key: str, tensor: Any) -> tuple[str, Any]:
    rows = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else None
    if rows is not None and rows.is_contiguous() and not tensor.is_contiguous():
        return key + NHWC, rows
    return key, tensor.contiguous()


def _adopt(model: Any, path: Path) -> None:
    """Replaces the model's weights by those in the mapped file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key in [key for key in state if key.endswith(NHWC)]:
        state[key.removesuffix(NHWC)] = state.pop(key).permute(0, 3, 1, 2)
    model.load_state_dict(state, assign=True)
