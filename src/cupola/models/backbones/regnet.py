"""RegNet (arXiv 2003.13678): ResNeXt with widths from a quantized linear function."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cupola.models.backbones.residual import Bottleneck, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.registry import MODELS
from cupola.registry.budget import reserve

DIVISOR = 8  # of all widths
# Per name: first width, slope, base of the quantization, width of a group, blocks.
ARCHITECTURES = {
    "regnetx_400mf": (24, 24.48, 2.54, 16, 22),
    "regnetx_800mf": (56, 35.73, 2.28, 16, 16),
    "regnetx_1.6gf": (80, 34.01, 2.25, 24, 18),
    "regnetx_3.2gf": (88, 26.31, 2.25, 48, 25),
    "regnetx_4.0gf": (96, 38.65, 2.43, 40, 23),
    "regnetx_6.4gf": (184, 60.83, 2.07, 56, 17),
    "regnetx_8.0gf": (80, 49.56, 2.88, 120, 23),
    "regnetx_12gf": (168, 73.36, 2.37, 112, 19),
}
KEYS = ("w0", "wa", "wm", "group_w", "depth")


@MODELS.register_module()
class RegNet(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    `arch` is a published name, or a dict of w0, wa, wm (section 3.3), depth (blocks), group_w
    (width of a group) and bot_mul (width in the middle of a block over that of the block).
    The other settings are those of ResidualNet. Source: mmdet/models/backbones/regnet.py.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        stem_channels: int = 32,
        base_channels: int = 32,  # unused, as in the original
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **settings: Any,
    ) -> None:
        first, slope, base, group, blocks = _numbers(arch)
        ratio = 1.0 if isinstance(arch, str) else arch.get("bot_mul", 1.0)
        widths, counts = stage_widths(first, slope, base, blocks)
        if not len(widths) <= len(strides) == len(dilations):
            raise ValueError(f"RegNet: {len(widths)} stages, but strides {tuple(strides)}")
        stages = []
        for i, (planned, count) in enumerate(zip(widths, counts, strict=True)):
            each = min(group, int(planned * ratio))
            middle = round(int(planned * ratio) / each) * each
            width = int(middle / ratio)
            groups = round(width * ratio) // each
            inner = width if groups == 1 else each * groups
            block = partial(Bottleneck, groups=groups, width=inner)
            stages.append(Stage(block, count, width, width, strides[i], dilations[i]))
        super().__init__(stages, stem_channels=stem_channels, pool=False, **settings)


def _numbers(arch: str | Mapping[str, Any]) -> tuple[Any, ...]:
    if not isinstance(arch, str):
        return tuple(arch[key] for key in KEYS)
    if arch not in ARCHITECTURES:
        raise ValueError(f"RegNet arch is one of {sorted(ARCHITECTURES)}, got {arch!r}")
    return ARCHITECTURES[arch]


def stage_widths(
    first: float, slope: float, base: float, blocks: int
) -> tuple[list[int], list[int]]:
    """The width and the number of blocks of each stage (equations 2 to 4)."""
    if slope < 0 or first <= 0 or base <= 1 or first % DIVISOR:
        raise ValueError(
            f"RegNet needs wa >= 0, wm > 1 and w0 a multiple of {DIVISOR}, "
            f"got wa {slope}, wm {base}, w0 {first}"
        )
    reserve(blocks)
    linear = np.arange(blocks) * slope + first
    steps = np.round(np.log(linear / first) / np.log(base))
    widths = np.round(first * base**steps / DIVISOR) * DIVISOR
    found, counts = np.unique(widths.astype(int), return_counts=True)  # widths never decrease
    return found.tolist(), counts.tolist()
