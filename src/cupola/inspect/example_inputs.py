"""Example inputs of a forward pass: random, of a given shape or of one that fits the model."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError


def parse_shape(text: str) -> tuple[int, ...]:
    """`3x800x1066` -> (3, 800, 1066); InputError for anything else or more than 2**31 values."""
    parts = text.lower().replace("×", "x").split("x")
    if not parts or not all(
        part.strip().isdecimal() and len(part) < 20 and int(part) > 0 for part in parts
    ):
        raise InputError(f"{text!r} is not a shape; write it as 3x800x1066")
    shape = tuple(int(part) for part in parts)
    if torch.Size(shape).numel() > 2**31:
        raise InputError(f"{text!r}: an input of more than 2**31 values")
    return shape


def example_inputs(model: Any, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Keyword arguments for one forward pass of `model`, batch 1, drawn with a fixed seed.

    `shape` is that of one sample, without the batch dimension: [C, H, W] of an image or field,
    [N, C, H, W] of N cameras, [S] of token ids. InputError when the forward takes something
    else.
    """
    parameters = inspect.signature(model.forward).parameters
    names = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    random = torch.Generator().manual_seed(0)
    if names == ["input_ids"]:
        size = model.settings.vocab_size if hasattr(model, "settings") else 256
        length = tuple(shape or (16,))
        return {"input_ids": torch.randint(0, size, (1, *length), generator=random)}
    if "lidar2img" in names:
        counts = [m.num_cams for m in model.modules() if hasattr(m, "num_cams")]
        cameras = counts[-1] if counts else 6  # the attention's, below the transformer's
        given = _cameras(tuple(shape or (cameras, 3, 256, 448)), random)
        given |= _first_frame(model, cameras)
        return {name: value for name, value in given.items() if name in parameters}
    if len(names) != 1:
        raise InputError(
            f"{type(model).__name__}.forward takes {', '.join(names) or 'nothing'}; "
            "pass describe() the inputs themselves"
        )
    sample = tuple(shape or default_shape(model))
    text = {"tokens": model.example_tokens()} if hasattr(model, "example_tokens") else {}
    return {names[0]: torch.randn(1, *sample, generator=random), **text}


def default_shape(model: Any) -> tuple[int, ...]:
    """The shape of one sample when none is given."""
    stated = getattr(model, "example_shape", None)
    if stated is not None:
        return tuple(stated)
    settings = getattr(model, "settings", None)
    size = getattr(settings, "img_size", None)
    if size is not None:
        return (int(settings.in_channels), *size)  # type: ignore[union-attr]
    first = next((p for p in model.parameters() if p.dim() > 1), None)
    if first is not None and first.dim() == 4:
        return (int(first.shape[1]), 224, 224)
    if first is not None and first.dim() == 3:
        return (int(first.shape[1]), 64)
    return (int(first.shape[-1]),) if first is not None else (3, 224, 224)


def _cameras(shape: tuple[int, ...], random: torch.Generator) -> dict[str, Any]:
    if len(shape) != 4:
        raise InputError(f"cameras need a shape such as 6x3x256x448, not {shape}")
    N, _, H, W = shape
    return {
        "pixels": torch.randn(1, *shape, generator=random),
        "lidar2img": torch.stack([_looking(index, N, H, W) for index in range(N)])[None],
        "image_size": (H, W),
    }


def _first_frame(model: Any, cameras: int) -> dict[str, Any]:
    """What a model of streams takes besides the images, of a vehicle at rest; {} for others."""
    if not getattr(model, "is_stream", False):
        return {}
    lens = torch.eye(4).repeat(1, cameras, 1, 1)
    motion = {
        "intrinsics": lens,
        "extrinsics": lens,
        "ego_pose": torch.eye(4, dtype=torch.float64)[None],
        "timestamp": torch.zeros(1, dtype=torch.float64),
        "can_bus": torch.eye(18, dtype=torch.float64)[3:4],  # the quaternion of no rotation
    }
    return {**{name: motion[name] for name in model.stream_inputs}, "state": model.initial_state(1)}


def _looking(index: int, count: int, H: int, W: int) -> Tensor:
    """A camera at the origin that looks outwards, turned by its share of the circle; [4, 4]."""
    angle = torch.tensor(2 * torch.pi * index / count)
    cos, sin = float(angle.cos()), float(angle.sin())
    turn = torch.tensor([[sin, -cos, 0, 0], [0, 0, -1, 0], [cos, sin, 0, 0], [0, 0, 0, 1.0]])
    lens = torch.eye(4)
    lens[0, 0] = lens[1, 1] = W / 2
    lens[0, 2], lens[1, 2] = W / 2, H / 2
    return lens @ turn
