"""Batches of training padded as the model's `data_preprocessor` pads those of prediction."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from cupola.data.detection import pad_class_map

Config = Mapping[str, Any]
Batch = dict[str, Any]


def published_padding(model: Config, train: bool) -> dict[str, Any]:
    """The arguments of `pad_batch` that a model's `data_preprocessor` asks for; empty if none."""
    found = model.get("data_preprocessor") or {}
    padding: dict[str, Any] = {}
    if found.get("pad_size_divisor", 1) != 1:
        padding["divisor"] = found["pad_size_divisor"]
    for augment in found.get("batch_augments") or () if train else ():
        if str(augment.get("type")).rpartition(".")[2] == "BatchFixedSizePad":
            padding["at_least"] = tuple(augment["size"])
    return padding


def collate_with(
    collate: Callable[[Sequence[Any]], Batch], padding: Config | None
) -> Callable[[Sequence[Any]], Batch]:
    """A dataset's collate function, followed by `pad_batch` with the arguments in `padding`."""
    return partial(_collate_and_pad, collate, dict(padding)) if padding else collate


def _collate_and_pad(
    collate: Callable[[Sequence[Any]], Batch], padding: dict[str, Any], samples: Sequence[Any]
) -> Batch:
    return pad_batch(collate(samples), **padding)


def pad_batch(batch: Batch, divisor: int = 1, at_least: Sequence[int] = (0, 0)) -> Batch:
    """Zeros at the right and the bottom of "pixels" [B, 3, H, W], True in "padding_mask".

    Sides grow to multiples of `divisor`, then to `at_least` (height, width); so do
    "padded_sizes". Batches without a padding mask, which are no images for a 2-D detector, stay as
    they are.
    """
    if "padding_mask" not in batch:
        return batch

    def grown(size: Sequence[int]) -> tuple[int, int]:
        height, width = (
            max(-(-side // divisor) * divisor, least)
            for side, least in zip(size, at_least, strict=True)
        )
        return height, width

    if "padded_sizes" in batch:
        batch = {**batch, "padded_sizes": [grown(size) for size in batch["padded_sizes"]]}
    pixels, mask = batch["pixels"], batch["padding_mask"]
    height, width = pixels.shape[-2:]
    down, right = (
        large - side for large, side in zip(grown((height, width)), (height, width), strict=True)
    )
    if not (down or right):
        return batch
    if mask is None:
        mask = torch.zeros(len(pixels), height, width, dtype=torch.bool)
    if targets := batch.get("targets"):
        whole = (height + down, width + right)
        batch = {**batch, "targets": [_with_larger_map(each, whole) for each in targets]}
    return {
        **batch,
        "pixels": F.pad(pixels, (0, right, 0, down)),
        "padding_mask": F.pad(mask, (0, right, 0, down), value=True),
    }


def _with_larger_map(target: Any, size: tuple[int, int]) -> Any:
    if not isinstance(target, Mapping) or "semantic" not in target:
        return target
    return {**target, "semantic": pad_class_map(target["semantic"], size)}
