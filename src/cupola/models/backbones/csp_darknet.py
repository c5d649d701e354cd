"""CSPDarknet of YOLOX (arXiv 2107.08430) and CSPNeXt of RTMDet (arXiv 2212.07784)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.csp import BATCH_NORM, SWISH, CSPLayer, SPPBottleneck, conv_of
from cupola.models.layers.freezing import freeze, keep_statistics
from cupola.registry import MODELS

Config = Mapping[str, Any]
Row = Sequence[Any]  # of a stage: channels in and out, blocks, shortcuts in them, pyramid pooling
DARKNET: dict[str, list[Row]] = {
    "P5": [
        (64, 128, 3, True, False), (128, 256, 9, True, False),
        (256, 512, 9, True, False), (512, 1024, 3, False, True),
    ],
    "P6": [
        (64, 128, 3, True, False), (128, 256, 9, True, False),
        (256, 512, 9, True, False), (512, 768, 3, True, False), (768, 1024, 3, False, True),
    ],
}  # fmt: skip
NEXT: dict[str, list[Row]] = {
    name: [(cin, cout, 6 if count == 9 else count, *flags) for cin, cout, count, *flags in rows]
    for name, rows in DARKNET.items()
}


class Focus(nn.Module):
    """x [B, 3, H, W] -> [B, C, H / 2, W / 2]: the four pixels of a 2 x 2 cell are channels."""

    def __init__(self, out_channels: int, **cfgs: Any) -> None:
        super().__init__()
        self.conv = ConvModule(12, out_channels, 3, padding=1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]  # rows first
        return self.conv(torch.cat(corners, 1))


class CSPNet(nn.Module):
    """Abstract: x [B, 3, H, W] -> the maps of `out_indices`, where 0 is the stem.

    The stem and each stage halve the size. `deepen_factor` and `widen_factor` scale the blocks and
    the channels of the architecture, `arch_ovewrite` (sic) replaces it. `frozen_stages` n freezes
    the stem (0) and the first n stages; `norm_eval` keeps the running statistics in training.
    """

    def __init__(
        self,
        stem: nn.Module,
        rows: Sequence[Row],
        scale: tuple[float, float],
        csp: Mapping[str, Any],
        out_indices: Sequence[int],
        frozen_stages: int,
        spp_kernel_sizes: Sequence[int],
        use_depthwise: bool,
        norm_eval: bool,
        cfgs: Mapping[str, Any],
        init_cfg: Any,
    ) -> None:
        super().__init__()
        if not out_indices or not 0 <= min(out_indices) <= max(out_indices) <= len(rows):
            raise ValueError(f"out_indices {tuple(out_indices)}: there are {len(rows)} stages")
        if not -1 <= frozen_stages <= len(rows):
            raise ValueError(f"frozen_stages {frozen_stages}: there are {len(rows)} stages")
        self.init_cfg = init_cfg
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.stem = stem
        self.layers = ["stem"]
        deepen, widen = scale
        for i, (cin, cout, count, identity, spp) in enumerate(rows, 1):
            width = int(cout * widen)
            conv = conv_of(use_depthwise)
            parts: list[nn.Module] = [conv(int(cin * widen), width, 3, 2, padding=1, **cfgs)]
            if spp:
                parts.append(SPPBottleneck(width, spp_kernel_sizes, **cfgs))
            blocks = max(round(count * deepen), 1)
            parts.append(
                CSPLayer(width, width, num_blocks=blocks, add_identity=identity,
                         use_depthwise=use_depthwise, **csp, **cfgs)
            )  # fmt: skip
            self.add_module(f"stage{i}", nn.Sequential(*parts))
            self.layers.append(f"stage{i}")
        self._freeze()

    def _freeze(self) -> None:
        freeze(getattr(self, name) for name in self.layers[: self.frozen_stages + 1])

    def train(self, mode: bool = True) -> "CSPNet":
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for name in self.layers[: max(self.out_indices) + 1]:
            x = getattr(self, name)(x)
            maps.append(x)
        return tuple(each for i, each in enumerate(maps) if i in self.out_indices)


def _rows(name: str, arch: str, table: Mapping[str, list[Row]], own: Any) -> Sequence[Row]:
    if not own and arch not in table:
        raise ValueError(f"{name} arch is one of {sorted(table)}, got {arch!r}")
    return own or table[arch]


@MODELS.register_module()
class CSPDarknet(CSPNet):
    """The backbone of YOLOX; see CSPNet. Source: mmdet/models/backbones/csp_darknet.py."""

    def __init__(
        self,
        arch: str = "P5",
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        use_depthwise: bool = False,
        arch_ovewrite: Sequence[Row] | None = None,
        spp_kernal_sizes: Sequence[int] = (5, 9, 13),  # (sic)
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
        norm_eval: bool = False,
        init_cfg: Any = None,
    ) -> None:
        rows = _rows("CSPDarknet", arch, DARKNET, arch_ovewrite)
        cfgs = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stem = Focus(int(rows[0][0] * widen_factor), **cfgs)
        super().__init__(
            stem, rows, (deepen_factor, widen_factor), {}, out_indices, frozen_stages,
            spp_kernal_sizes, use_depthwise, norm_eval, cfgs, init_cfg,
        )  # fmt: skip


@MODELS.register_module()
class CSPNeXt(CSPNet):
    """The backbone of RTMDet; see CSPNet. Source: mmdet/models/backbones/cspnext.py."""

    def __init__(
        self,
        arch: str = "P5",
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        use_depthwise: bool = False,
        expand_ratio: float = 0.5,
        arch_ovewrite: Sequence[Row] | None = None,
        spp_kernel_sizes: Sequence[int] = (5, 9, 13),
        channel_attention: bool = True,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
        norm_eval: bool = False,
        init_cfg: Any = None,
    ) -> None:
        rows = _rows("CSPNeXt", arch, NEXT, arch_ovewrite)
        cfgs = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        width = rows[0][0] * widen_factor
        half = int(width // 2)
        plain: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg, "padding": 1}
        stem = nn.Sequential(
            ConvModule(3, half, 3, 2, **plain),
            ConvModule(half, half, 3, **plain),
            ConvModule(half, int(width), 3, **plain),
        )
        csp = {
            "use_cspnext_block": True,
            "expand_ratio": expand_ratio,
            "channel_attention": channel_attention,
        }
        super().__init__(
            stem, rows, (deepen_factor, widen_factor), csp, out_indices, frozen_stages,
            spp_kernel_sizes, use_depthwise, norm_eval, cfgs, init_cfg,
        )  # fmt: skip
