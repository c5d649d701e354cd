"""origins: which tensor of a checkpoint became which of the model, found by their memory."""

from collections.abc import Mapping

import torch
from torch import Tensor


def origins(checkpoint: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Our key -> the key of the checkpoint whose memory the tensor is, or is a part of.

    A tensor that a dialect computed, such as the concatenation of two, has no origin.
    """
    places: dict[int, list[tuple[int, int, str]]] = {}
    for key, tensor in checkpoint.items():
        if (place := _place(tensor)) is not None:
            storage, start = place
            stop = start + max(1, tensor.numel()) * tensor.element_size()
            places.setdefault(storage, []).append((start, stop, key))
    found = {}
    for key, tensor in ours.items():
        if (place := _place(tensor)) is None:
            continue
        storage, start = place
        known = [name for low, high, name in places.get(storage, ()) if low <= start < high]
        if known:
            found[key] = key if key in known else known[0]
    return found


def _place(tensor: Tensor) -> tuple[int, int] | None:
    """The storage of a tensor, and its first byte in it."""
    if tensor.layout != torch.strided:
        return None
    storage = tensor.untyped_storage()
    return int(storage._cdata), int(tensor.storage_offset()) * tensor.element_size()
