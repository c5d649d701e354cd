"""Features of regions of interest (RoIs) from a feature pyramid.

Letters: B images, C channels, R regions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.ops.roi_align import roi_align
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class RoIAlign(nn.Module):
    """`roi_align` as a layer: x [B, C, H, W], rois [R, 5] -> [R, C, h, w]."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        pool_mode: str = "avg",
        aligned: bool = True,
        use_torchvision: bool = False,
    ) -> None:
        super().__init__()
        h, w = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size = (int(h), int(w))
        self.spatial_scale, self.sampling_ratio = spatial_scale, sampling_ratio
        self.pool_mode, self.aligned = pool_mode, aligned

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        settings = (self.spatial_scale, self.sampling_ratio, self.aligned, self.pool_mode)
        return roi_align(x, rois, self.output_size, *settings)


@MODELS.register_module()
class SingleRoIExtractor(nn.Module):
    """Each region from one level: that on which its size is nearest to `finest_scale` pixels.

    Source: FPN (arXiv 1612.03144), equation 1; mmdet/models/roi_heads/roi_extractors.
    """

    def __init__(
        self,
        roi_layer: Config,
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: int = 56,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.roi_layers = nn.ModuleList(
            MODELS.build({**roi_layer, "spatial_scale": 1 / stride}) for stride in featmap_strides
        )
        self.out_channels, self.finest_scale = out_channels, finest_scale

    def forward(
        self, maps: Sequence[Tensor], rois: Tensor, unscaled: Tensor | None = None
    ) -> Tensor:
        """Maps [B, C, h_i, w_i], finest first, rois [R, 5] (image, xyxy) -> [R, C, h, w].

        Where the rois were enlarged, `unscaled` [R, 5] are those whose size chooses the level.
        """
        layers = list(self.roi_layers)
        used, rois = maps[: len(layers)], rois.to(maps[0])
        if len(layers) == 1:
            return layers[0](used[0], rois)
        levels = roi_levels(rois if unscaled is None else unscaled, self.finest_scale, len(layers))
        if torch.compiler.is_exporting():  # every region from every level: shapes do not vary
            found = [layer(x, rois) for layer, x in zip(layers, used, strict=True)]
            chosen = torch.stack(found)  # [L, R, C, h, w]
            shape = (1, -1, 1, 1, 1)
            index = levels.clamp(min=0).view(shape).expand(1, -1, *chosen.shape[2:])
            return chosen.gather(0, index)[0] * (levels >= 0).view(shape[1:])
        h, w = layers[0].output_size
        out = used[0].new_zeros(len(rois), used[0].shape[1], h, w)
        for level, (layer, x) in enumerate(zip(layers, used, strict=True)):
            members = (levels == level).nonzero()[:, 0]
            if len(members):
                out = out.index_copy(0, members, layer(x, rois[members]))
            else:
                out = out + x.sum() * 0  # so that every level has a gradient on every rank
        return out


@MODELS.register_module()
class GenericRoIExtractor(nn.Module):
    """Each region from all levels: their features summed, or joined with `aggregation` "concat".

    `pre_cfg` is a layer before, `post_cfg` one after the sum.
    Source: GRoIE (arXiv 2004.13665); mmdet/models/roi_heads/roi_extractors.
    """

    def __init__(
        self,
        roi_layer: Config,
        out_channels: int,
        featmap_strides: Sequence[int],
        aggregation: str = "sum",
        pre_cfg: Config | None = None,
        post_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if aggregation not in ("sum", "concat"):
            raise ValueError(f"aggregation is 'sum' or 'concat', got {aggregation!r}")
        self.roi_layers = nn.ModuleList(
            MODELS.build({**roi_layer, "spatial_scale": 1 / stride}) for stride in featmap_strides
        )
        self.out_channels, self.join = out_channels, aggregation == "concat"
        self.post_module = MODELS.build(post_cfg) if post_cfg else None
        self.pre_module = MODELS.build(pre_cfg) if pre_cfg else None

    def forward(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps [B, C, h_i, w_i], finest first, rois [R, 5] (image, xyxy) -> [R, C, h, w]."""
        layers = list(self.roi_layers)
        used, rois = maps[: len(layers)], rois.to(maps[0])
        if len(layers) == 1:
            return layers[0](used[0], rois)
        found = [layer(x, rois) for layer, x in zip(layers, used, strict=True)]
        if self.pre_module is not None:
            found = [self.pre_module(each) for each in found]
        x = torch.cat(found, 1) if self.join else torch.stack(found).sum(0)
        if x.shape[1] != self.out_channels:
            raise ValueError(f"regions have {x.shape[1]} channels, not {self.out_channels}")
        return x if self.post_module is None else self.post_module(x)


def roi_levels(rois: Tensor, finest_scale: float, levels: int) -> Tensor:
    """The level of every region [R], 0 the finest, which takes those below 2 * finest_scale.

    It is -1 for regions with one negative side, whose features are zero, as in the original.
    """
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    size = area.clamp(min=0).sqrt()
    level = (size / finest_scale + 1e-6).log2().floor().clamp(0, levels - 1).long()
    return torch.where(area < 0, -1, level)


def rois_of(boxes: Sequence[Tensor], first: int = 0) -> Tensor:
    """Boxes [R_i, 4] of images from the `first` on -> rois [R, 5], the image's index first."""
    numbered = [
        torch.cat((each.new_full((len(each), 1), i), each[:, :4]), -1)
        for i, each in enumerate(boxes, first)
    ]
    return torch.cat(numbered)
