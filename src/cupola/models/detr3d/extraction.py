"""Feature maps of the images of several cameras, and the frames of a clip that are only seen.

Letters: B samples, N cameras.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cupola.errors import BuildError, InputError


def set_pretrained(model: Any, pretrained: Any) -> None:
    """`pretrained` of MMDetection3D 0.x, a dict with "img": what the backbone starts from."""
    if not pretrained:
        return
    checkpoint = pretrained.get("img") if isinstance(pretrained, Mapping) else None
    if not isinstance(checkpoint, str):
        raise BuildError(
            f"{type(model).__name__}: pretrained should be a dict with a checkpoint for `img`, got "
            f"{pretrained!r:.60}"
        )
    model.img_backbone.init_cfg = {"type": "Pretrained", "checkpoint": checkpoint}


def extract_maps(model: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """Maps [B, N, channels, h_l, w_l] of images [B, N, 3, H, W] by a detector's backbone and neck.

    A prediction on a CPU sees the images one by one: their maps stay in its caches, which is
    faster, and the peak of memory is that of one image. InputError for other shapes.
    """
    if pixels.dim() != 5:
        raise InputError(f"images should be [B, N, 3, H, W], got {list(pixels.shape)}")
    images = pixels.flatten(0, 1)  # [B * N, 3, H, W]
    if model.use_grid_mask:
        images = model.grid_mask(images)
    if not model.training and computed_apart(images):
        parts = [_maps(model, image[None]) for image in images]
        maps = tuple(torch.cat(level) for level in zip(*parts, strict=True))
    else:
        maps = _maps(model, images)
    return tuple(torch.unflatten(level, 0, pixels.shape[:2]) for level in maps)


def computed_apart(images: Tensor) -> bool:
    """Whether a batch [B, ...] is computed sample by sample: without gradients on a CPU."""
    plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return plain and len(images) > 1 and images.device.type == "cpu"


def _maps(model: Any, images: Tensor) -> tuple[Tensor, ...]:
    maps: tuple[Tensor, ...] = model.img_backbone(images)
    return maps if model.img_neck is None else tuple(model.img_neck(maps))


@contextmanager
def learning(model: Any, learns: bool) -> Iterator[None]:
    """Nothing, or for a frame that only fills a memory: eval mode, without gradients."""
    if learns:
        yield
        return
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
