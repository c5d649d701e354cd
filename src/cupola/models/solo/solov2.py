"""SOLOv2: cells predict kernels, which make masks of features that all objects share.

Letters: B images, C classes, D mask features, K = D * k * k numbers of a kernel, g cells of a
grid's side, (h, w) the mask features' map, P cells that are chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense.segmentor import InstanceSegmentor
from cupola.models.dense.stacks import apply
from cupola.models.layers import ConvModule
from cupola.models.solo.head import SOLOHead, doubled, with_places
from cupola.models.solo.matrix_nms import point_nms
from cupola.models.solo.targets import GridTargets, smaller_masks
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


class SOLOv2Output(NamedTuple):
    """Of every level kernels [B, K, g, g] and class logits [B, C, g, g]; features [B, D, h, w]."""

    kernels: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]
    features: Tensor


@MODELS.register_module()
class SOLOv2(InstanceSegmentor):
    """Source: mmdet/models/detectors/solov2.py."""


@MODELS.register_module()
class SOLOV2Head(SOLOHead):
    """A stack for classes and one for kernels of `dynamic_conv_size`, both on the grids.

    `dcn_cfg` is the kind of all convolutions, or with `dcn_apply_to_all_conv` False of the last.
    Source: mmdet/models/dense_heads/solov2_head.py.
    """

    exported_names = ("scores", "kernels", "features")
    scored_masks = ()
    adds_levels = True

    def __init__(
        self,
        *args: Any,
        mask_feature_head: Config,
        dynamic_conv_size: int = 1,
        dcn_cfg: Config | None = None,
        dcn_apply_to_all_conv: bool = True,
        **options: Any,
    ) -> None:
        self.kernel_size = dynamic_conv_size
        which = "conv_cfg" if dcn_apply_to_all_conv else "last_conv_cfg"
        self.convolutions: dict[str, Any] = {which: dcn_cfg}
        super().__init__(*args, **options)
        features = {**mask_feature_head, "in_channels": self.in_channels}
        width = int(features["out_channels"]) * dynamic_conv_size**2
        self.conv_kernel = nn.Conv2d(self.feat_channels, width, 3, padding=1)
        self.mask_feature_head = MaskFeatModule(**features)
        self.mask_stride = self.mask_feature_head.mask_stride

    def add_layers(self) -> None:
        """Makes the stacks."""
        self.cls_convs = self.stack(**self.convolutions)
        self.kernel_convs = self.stack(2, **self.convolutions)

    def forward(self, maps: Sequence[Tensor]) -> SOLOv2Output:
        """Feature maps [B, in_channels, h_i, w_i] -> SOLOv2Output."""
        features = self.mask_feature_head(maps)
        kernels, classes = [], []
        for x, grid in zip(self.resized(maps), self.num_grids, strict=True):
            small = F.interpolate(with_places(x), size=(grid, grid), mode="bilinear")
            kernels.append(self.conv_kernel(apply(self.kernel_convs, small)))
            classes.append(self.conv_cls(apply(self.cls_convs, small[:, :-2])))
        return SOLOv2Output(tuple(kernels), tuple(classes), features)

    def exported(self, output: Any) -> tuple[Tensor, ...]:
        """Scores [B, S, C] and kernels [B, S, K] of all cells, and the features [B, D, h, w]."""
        kernels = [each.flatten(2).transpose(1, 2) for each in output.kernels]
        return torch.cat(self.scores(output), 1), torch.cat(kernels, 1), output.features

    def scores(self, output: Any) -> list[Tensor]:
        """Scores [B, g * g, C] of every level, after NMS among neighbors."""
        found = (point_nms(each.float().sigmoid()) for each in output.classes)
        return [each.flatten(2).transpose(1, 2) for each in found]

    def masks_of(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """The probabilities of the masks of chosen cells of a level [P, h, w]."""
        return self.mask_logits(output, image, level, cells).float().sigmoid()

    def mask_logits(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """The mask logits of chosen cells of a level, [P, h, w]."""
        side, features = self.kernel_size, output.features[image][None]
        kernels = output.kernels[level][image].flatten(1).T[cells]  # [P, K]
        if not len(kernels):
            return features.new_zeros(0, *(each - side + 1 for each in features.shape[-2:]))
        return F.conv2d(features, kernels.view(len(kernels), -1, side, side))[0]

    def no_masks(self, output: Any) -> Tensor:
        """Zero, with gradients of all features and kernels."""
        return sum(each.sum() * 0 for each in (output.features, *output.kernels))

    def losses(
        self,
        output: Any,
        targets: Sequence[Mapping[str, Tensor]],
        wanted: Sequence[list[GridTargets]],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The losses, where a cell learns the masks of all objects that claim it."""
        count = sum(len(level.last()[0]) for image in wanted for level in image)
        goals = [smaller_masks(each["masks"], size, self.mask_stride) for each in targets]
        loss_mask = self.no_masks(output)
        found, goal = [], []
        for i, image in enumerate(wanted):
            for level, pairs in enumerate(image):
                found.append(self.mask_logits(output, i, level, pairs.cells))
                goal.append(goals[i][pairs.objects])
        if count:
            loss_mask = loss_mask + self.loss_mask(
                torch.cat(found), torch.cat(goal), avg_factor=count
            )
        return {"loss_mask": loss_mask, "loss_cls": self.class_loss(output, wanted, count)}


class MaskFeatModule(nn.Module):
    """Levels `start_level` to `end_level`, upsampled to the finest and summed; the last has places.

    Source: section 3.3 of the paper.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        start_level: int,
        end_level: int,
        out_channels: int,
        mask_stride: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or {"type": "Normal", "layer": "Conv2d", "std": 0.01}
        self.levels, self.mask_stride = range(start_level, end_level + 1), mask_stride
        reserve(len(self.levels))
        norms: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.convs_all_levels = nn.ModuleList()
        for level in self.levels:
            layers = nn.Sequential()
            for index in range(max(level, 1)):
                channels = feat_channels if index else in_channels
                if not index and level and level == end_level:
                    channels += 2
                conv = ConvModule(channels, feat_channels, 3, padding=1, inplace=False, **norms)
                layers.add_module(f"conv{index}", conv)
            self.convs_all_levels.append(layers)
        self.conv_pred = ConvModule(feat_channels, out_channels, 1, **norms)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps [B, in_channels, h_i, w_i] -> [B, D, h, w] of the finest level."""
        total: Any = 0
        for level, layers in zip(self.levels, self.convs_all_levels, strict=True):
            x = maps[level]
            if level > self.levels[0] and level == self.levels[-1]:
                x = with_places(x)
            for layer in layers:
                x = layer(x)
                x = doubled(x) if level else x
            total = total + x
        found: Tensor = self.conv_pred(total)
        return found
