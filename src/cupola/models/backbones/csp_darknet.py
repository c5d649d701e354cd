"""CSPDarknet of YOLOX (arXiv 2107.08430) and CSPNeXt of RTMDet (arXiv 2212.07784)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.backbones.chain import LayerChain
from cupola.models.layers import ConvModule
from cupola.models.layers.csp import BATCH_NORM, SWISH, CSPLayer, SPPBottleneck, conv_of
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


def csp_stages(
    rows: Sequence[Row],
    scale: tuple[float, float],
    use_depthwise: bool,
    spp_kernel_sizes: Sequence[int],
    csp: Mapping[str, Any],
    cfgs: Mapping[str, Any],
) -> dict[str, nn.Module]:
    """The stages, each of which halves the size; `scale` is that of the blocks and the channels."""
    deepen, widen = scale
    stages: dict[str, nn.Module] = {}
    for i, (cin, cout, count, identity, spp) in enumerate(rows, 1):
        width = int(cout * widen)
        conv = conv_of(use_depthwise)
        parts: list[nn.Module] = [conv(int(cin * widen), width, 3, 2, padding=1, **cfgs)]
        if spp:
            parts.append(SPPBottleneck(width, spp_kernel_sizes, **cfgs))
        parts.append(
            CSPLayer(width, width, num_blocks=max(round(count * deepen), 1),
                     add_identity=identity, use_depthwise=use_depthwise, **csp, **cfgs)
        )  # fmt: skip
        stages[f"stage{i}"] = nn.Sequential(*parts)
    return stages


def _rows(name: str, arch: str, table: Mapping[str, list[Row]], own: Any) -> Sequence[Row]:
    if not own and arch not in table:
        raise ValueError(f"{name} arch is one of {sorted(table)}, got {arch!r}")
    return own or table[arch]


@MODELS.register_module()
class CSPDarknet(LayerChain):
    """The backbone of YOLOX: x [B, 3, H, W] -> the maps of `out_indices`, where 0 is the stem.

    The stem and each stage halve the size. `deepen_factor` and `widen_factor` scale the blocks and
    the channels of the architecture, `arch_ovewrite` (sic) replaces it. `frozen_stages` n freezes
    the stem (0) and the first n stages. Source: mmdet/models/backbones/csp_darknet.py.
    """

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
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stem = Focus(int(rows[0][0] * widen_factor), **cfgs)
        scale = (deepen_factor, widen_factor)
        stages = csp_stages(rows, scale, use_depthwise, spp_kernal_sizes, {}, cfgs)
        layers = {"stem": stem, **stages}
        super().__init__(layers, out_indices, frozen_stages + 1, norm_eval, init_cfg)


@MODELS.register_module()
class CSPNeXt(LayerChain):
    """The backbone of RTMDet; the settings are those of CSPDarknet.

    Source: mmdet/models/backbones/cspnext.py.
    """

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
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
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
        scale = (deepen_factor, widen_factor)
        stages = csp_stages(rows, scale, use_depthwise, spp_kernel_sizes, csp, cfgs)
        layers = {"stem": stem, **stages}
        super().__init__(layers, out_indices, frozen_stages + 1, norm_eval, init_cfg)
