"""BFP: the levels of a pyramid are balanced with their mean (arXiv 1904.02701, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule, NonLocal2d
from cupola.models.layers.initialization import initialize_uniformly
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class BFP(nn.Module):
    """(maps [B, C, H_i, W_i]) -> each map plus the refined mean of all, in the sizes they had.

    The mean has the size of level `refine_level`; `refine_type` "conv" or "non_local" refines it.
    Source: mmdet/models/necks/bfp.py.
    """

    def __init__(
        self,
        in_channels: int,
        num_levels: int,
        refine_level: int = 2,
        refine_type: str | None = None,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if refine_type not in (None, "conv", "non_local"):
            raise ValueError(f"refine_type is 'conv', 'non_local' or None, got {refine_type!r}")
        if not 0 <= refine_level < num_levels:
            raise ValueError(f"refine_level {refine_level}: there are {num_levels} levels")
        self.init_cfg = init_cfg
        self.num_levels = num_levels
        self.refine_level = refine_level
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.refine: nn.Module | None = None
        if refine_type == "conv":
            self.refine = ConvModule(in_channels, in_channels, 3, padding=1, **cfgs)
            initialize_uniformly(self)
        elif refine_type == "non_local":
            self.refine = NonLocal2d(in_channels, reduction=1, use_scale=False, **cfgs)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != self.num_levels:
            raise ValueError(f"BFP expects {self.num_levels} inputs, got {len(inputs)}")
        size = inputs[self.refine_level].shape[-2:]
        gathered = [
            F.adaptive_max_pool2d(x, size) if i < self.refine_level else F.interpolate(x, size)
            for i, x in enumerate(inputs)
        ]
        mean = sum(gathered[1:], gathered[0]) / len(gathered)
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(x + self._resized(mean, i, x) for i, x in enumerate(inputs))

    def _resized(self, mean: Tensor, level: int, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        if level < self.refine_level:
            return F.interpolate(mean, size)
        return F.adaptive_max_pool2d(mean, size)
