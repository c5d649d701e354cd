"""CondInstMaskHead: features of pixels, and the networks that make masks of them.

Letters: D features, K numbers of a network, P masks, (h, w) the finest level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.condinst.box_head import Instances
from cupola.models.dense import grid_points
from cupola.models.dense.masked import MaskSizes
from cupola.models.layers import ConvModule
from cupola.models.layers.dynamic_layers import DynamicLayers
from cupola.registry import MODELS
from cupola.registry.budget import reserve
from cupola.structures import Detections
from cupola.structures.masks import pad_masks

Config = Mapping[str, Any]
Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]
AT_ONCE = 16  # masks that are enlarged together


@MODELS.register_module()
class CondInstMaskHead(nn.Module):
    """Masks at `mask_out_stride` pixels, from features at the stride of `mask_feature_head`.

    A network sees the features and where its cell is, in `size_of_interest` strides of its level.
    At most `max_masks_to_train` masks of an image train, drawn at random, or the
    `topk_masks_per_img` best, as many of each object; -1 is no limit.
    Source: mmdet/models/dense_heads/condinst_head.py.
    """

    def __init__(
        self,
        mask_feature_head: Config,
        loss_mask: Config,
        num_layers: int = 3,
        feat_channels: int = 8,
        mask_out_stride: int = 4,
        size_of_interest: int = 8,
        max_masks_to_train: int = -1,
        topk_masks_per_img: int = -1,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.mask_feature_head = MaskFeatures(**mask_feature_head)
        self.stride, self.out_stride = self.mask_feature_head.stride, mask_out_stride
        if self.stride % mask_out_stride:
            raise ValueError(
                f"mask_out_stride {mask_out_stride} does not divide mask_stride {self.stride}"
            )
        channels = self.mask_feature_head.out_channels
        self.networks = DynamicLayers(channels, feat_channels, num_layers)
        self.reach = size_of_interest
        self.most, self.best = max_masks_to_train, topk_masks_per_img
        self.threshold = (test_cfg or {}).get("mask_thr", 0.5)
        self.loss_mask = MODELS.build(loss_mask)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> features [B, D, h, w]."""
        features: Tensor = self.mask_feature_head(maps)
        return features

    def masks(self, features: Tensor, instances: Instances) -> Tensor:
        """Features [D, h, w] of an image -> logits of masks [P, h', w'] at `mask_out_stride`."""
        height, width = features.shape[-2:]
        grid = grid_points([features[None]], [self.stride])[0]  # [h * w, 2]
        away = instances.points[:, None] - grid  # [P, h * w, 2]
        away = away / (instances.strides * self.reach)[:, None, None]
        shared = features.flatten(1).expand(len(away), -1, -1)
        x = torch.cat((away.transpose(1, 2).to(features), shared), 1)
        logits = self.networks(instances.networks, x).view(-1, height, width)
        return enlarged(logits, self.stride // self.out_stride)

    def predict(
        self, features: Tensor, found: Detections, instances: Instances, sizes: MaskSizes
    ) -> Tensor:
        """Features [D, h, w] of an image, and its detections -> masks [N, *original], bool."""
        height, width = sizes.content
        empty = torch.zeros(0, *sizes.original, dtype=torch.bool, device=features.device)
        masks = [empty]
        for part in torch.split(torch.arange(len(found), device=features.device), AT_ONCE):
            logits = self.masks(features, instances.chosen(part))
            scores = enlarged(logits.sigmoid(), self.out_stride)[:, :height, :width]
            whole = F.interpolate(scores[None], sizes.original, mode="bilinear")[0]
            masks.append(whole > self.threshold)
        return torch.cat(masks)

    def loss(
        self, features: Tensor, positives: Sequence[Instances], targets: Targets, size: Size
    ) -> dict[str, Tensor]:
        """loss_mask: the mean over the masks that train, of a batch of `size` (H, W)."""
        found, wanted = self.pairs(features, positives, targets, size)
        if not len(torch.cat(wanted)):
            return {"loss_mask": self.no_masks(features, positives)}
        masks, goal = torch.cat(found), torch.cat(wanted)
        return {"loss_mask": self.loss_mask(masks, goal, avg_factor=float(len(goal)))}

    def pairs(
        self, features: Tensor, positives: Sequence[Instances], targets: Targets, size: Size
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of every image the logits of masks that train, and what they should be, [P, h', w']."""
        found, wanted, step = [], [], self.out_stride
        for i, (instances, target) in enumerate(zip(positives, targets, strict=True)):
            assert instances.objects is not None
            instances = instances.chosen(self.trained(instances))
            found.append(self.masks(features[i], instances))
            goal = pad_masks(target["masks"], size)[:, step // 2 :: step, step // 2 :: step]
            wanted.append(goal[instances.objects].to(features))
        return found, wanted

    def no_masks(self, features: Tensor, positives: Sequence[Instances]) -> Tensor:
        """Zero, with gradients of the features and networks."""
        return features.sum() * 0 + sum(each.networks.sum() * 0 for each in positives)

    def trained(self, instances: Instances) -> Tensor:
        """The indices of the masks that train."""
        objects, quality = instances.objects, instances.quality
        assert objects is not None and quality is not None
        every = torch.arange(len(objects), device=objects.device)
        if 0 <= self.most < len(objects):
            return torch.randperm(len(objects))[: self.most].to(objects.device)
        if self.best < 0 or not len(objects):
            return every
        owners = sorted(set(objects.tolist()))
        share = max(self.best // len(owners), 1)
        chosen = []
        for owner in owners:
            members = every[objects == owner]
            if len(members) > share:
                members = members[quality[members].topk(share).indices]
            chosen.append(members)
        return torch.cat(chosen)


class MaskFeatures(nn.Module):
    """The levels from `start_level` to `end_level` at the size of the first, summed, and a stack.

    `mask_stride` is the stride of the first.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        start_level: int,
        end_level: int,
        out_channels: int,
        mask_stride: int = 4,
        num_stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not 0 <= start_level <= end_level:
            raise ValueError(f"start_level {start_level} is not in 0..end_level {end_level}")
        reserve(end_level + num_stacked_convs)
        self.init_cfg = init_cfg or {"type": "Normal", "layer": "Conv2d", "std": 0.01}
        self.first, self.last = start_level, end_level
        self.stride, self.out_channels = mask_stride, out_channels
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "bias": False}
        self.convs_all_levels = nn.ModuleList()
        for i in range(start_level, end_level + 1):
            level = nn.Sequential()
            level.add_module(
                f"conv{i}", ConvModule(in_channels, feat_channels, 3, padding=1, **settings)
            )
            self.convs_all_levels.append(level)
        self.conv_branch = nn.Sequential(
            *(
                ConvModule(feat_channels, feat_channels, 3, padding=1, **settings)
                for _ in range(num_stacked_convs)
            )
        )
        self.conv_pred = nn.Conv2d(feat_channels, out_channels, 1)

    def init_weights(self) -> None:
        """Kaiming's uniform initialization of all convolutions."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> features [B, D, h, w]; sides of 32 pixels fit."""
        total: Any = 0
        for i, (conv, x) in enumerate(
            zip(self.convs_all_levels, maps[self.first : self.last + 1], strict=True)
        ):
            larger = conv(x)
            b, c, h, w = larger.shape
            larger = enlarged(larger.flatten(0, 1), 2**i).view(b, c, h * 2**i, w * 2**i)
            total = total + larger
        features: Tensor = self.conv_pred(self.conv_branch(total))
        return features


def enlarged(maps: Tensor, factor: int) -> Tensor:
    """Maps [N, h, w] -> [N, h * factor, w * factor], bilinearly.

    A value is at the middle of its cell, or half a pixel before it, and the last are repeated.
    """
    if factor == 1:
        return maps
    height, width = (factor * side for side in maps.shape[-2:])
    x = F.pad(maps[:, None], (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, 0, :height, :width]
