"""RTMDetInsSepBNHead: RTMDet with masks, by small networks that every cell predicts.

Letters: B images, C classes, D prototypes, K numbers of a network, S cells of all levels, P cells
that are chosen, (h, w) the finest level.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.postprocess import Candidates, best_of_levels, level_rows, suppressed
from cupola.models.dense.stacks import apply, stack
from cupola.models.dense.targets import AnchorTargets
from cupola.models.layers.dynamic_layers import DynamicLayers
from cupola.models.rtmdet.head import RTMDetSepBNHead
from cupola.registry import MODELS
from cupola.structures import Detections
from cupola.structures.masks import pad_masks

Config = Mapping[str, Any]
Size = tuple[int, int]
DICE: Config = {"type": "DiceLoss", "loss_weight": 2.0, "eps": 5e-6, "reduction": "mean"}
REACH = 8  # strides that a relative place is divided by


class MaskedOutput(NamedTuple):
    """DenseOutput with networks [B, K, h_i, w_i] of every level, and prototypes [B, D, h, w]."""

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]
    features: Tensor
    qualities: None = None


@MODELS.register_module()
class RTMDetInsSepBNHead(RTMDetSepBNHead):
    """Classes and boxes share one stack; another predicts the networks.

    Source: mmdet/models/dense_heads/rtmdet_ins_head.py.
    """

    predicts_masks = True
    exported_names = ("scores", "boxes", "kernels", "features")

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        with_objectness: bool = False,
        num_prototypes: int = 8,
        dyconv_channels: int = 8,
        num_dyconvs: int = 3,
        mask_loss_stride: int = 4,
        loss_mask: Config = DICE,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        self.layers = DynamicLayers(num_prototypes, dyconv_channels, num_dyconvs)
        self.kernel_size = self.layers.size
        settings: dict[str, Any] = {
            "norm_cfg": norm_cfg or {"type": "BN", "requires_grad": True},
            "act_cfg": act_cfg or {"type": "SiLU", "inplace": True},
        }
        super().__init__(
            num_classes, in_channels, with_objectness=with_objectness, **settings, **options
        )
        self.reg_convs = nn.ModuleList(list(self.cls_convs))
        levels = len(self.anchors.strides)
        features = (in_channels, self.feat_channels, levels, num_prototypes)
        self.mask_head = MaskFeatModule(*features, **settings)
        self.mask_loss_stride, self.loss_mask = mask_loss_stride, MODELS.build(loss_mask)

    def init_weights(self) -> None:
        """As in RTMDetHead; distances begin at one stride."""
        super().init_weights()
        for layer in self.rtm_reg:
            nn.init.constant_(layer.bias, 1.0)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """Feature maps [B, in_channels, h_i, w_i] -> MaskedOutput; distances are in pixels."""
        features = self.mask_head(maps)
        found = super().forward(maps)
        parts = zip(self.kernel_convs, self.rtm_kernel, maps, strict=True)
        kernels = tuple(layer(apply(convs, x)) for convs, layer, x in parts)
        return MaskedOutput(found.logits, found.boxes, kernels, features)

    def sides(self, x: Tensor, level: int) -> Tensor:
        """The prediction [B, 4, h, w] of a level -> distances in strides."""
        return F.relu(x)

    def exported(self, output: Any) -> tuple[Tensor, ...]:
        """Scores [B, S, C], boxes [B, S, 4], networks [B, S, K] and prototypes [B, D, h, w]."""
        scores, boxes = self.scored_boxes(output)
        return scores, boxes, joined_levels(output.kernels, self.kernel_size), output.features

    def masks_of(
        self, output: Any, image: int, kernels: Tensor, points: Tensor, strides: Tensor
    ) -> Tensor:
        """Networks [P, K] of cells at points [P, 2] with strides [P] -> logits [P, h, w]."""
        features = output.features[image]
        height, width = features.shape[-2:]
        grid = centers(self.anchors(output.logits)[0]).to(features)  # [h * w, 2]
        away = (points[:, None] - grid) / (strides * REACH)[:, None, None]  # [P, h * w, 2]
        shared = features.flatten(1).expand(len(kernels), -1, -1)
        x = torch.cat((away.transpose(1, 2).to(features), shared), 1)
        return self.layers(kernels, x).view(-1, height, width)

    def predict(  # type: ignore[override]
        self,
        output: Any,
        sizes: Sequence[Size],
        scale_factors: Sequence[Sequence[float] | None],
        originals: Sequence[Size],
    ) -> list[Detections]:
        """Detections with masks, in pixels of `originals` (height, width)."""
        images = enumerate(zip(sizes, scale_factors, originals, strict=True))
        return [self._predict(output, i, *each) for i, each in images]

    def _predict(
        self, output: Any, image: int, size: Size, factor: Sequence[float] | None, original: Size
    ) -> Detections:
        rows = [level_rows(each[image : image + 1], 4)[0].float() for each in output.boxes]
        logits = [level_rows(x[image : image + 1], self.cls_channels)[0] for x in output.logits]
        kernels = [level_rows(x[image : image + 1], self.kernel_size)[0] for x in output.kernels]
        scores = [self.scores(each.float()) for each in logits]
        places, score, label = best_of_levels(scores, None, self.test_cfg)
        anchors = self.anchors(output.logits)
        chosen = torch.cat([each[where] for each, where in zip(anchors, places, strict=True)])
        sides = torch.cat([each[where] for each, where in zip(rows, places, strict=True)])
        kernel = torch.cat([each[where] for each, where in zip(kernels, places, strict=True)])
        boxes = self.decode(chosen, sides, 0, size)
        found, kept = suppressed(Candidates(boxes, score, label), self.test_cfg, factor)
        points, stride = centers(chosen[kept]), (chosen[:, 2] - chosen[:, 0])[kept]
        masks = self.masks_of(output, image, kernel[kept].float(), points, stride)
        threshold = self.test_cfg.get("mask_thr_binary", 0.5)
        resized = self.in_pixels(masks, factor, original).sigmoid() > threshold
        return replace(found, masks=resized)

    def in_pixels(self, masks: Tensor, factor: Sequence[float] | None, original: Size) -> Tensor:
        """Mask logits [P, h, w] -> [P, H, W] of the original image."""
        if not len(masks):
            return masks.new_zeros(0, *original)
        scale = float(self.anchors.strides[0][0])
        found = F.interpolate(masks[None], scale_factor=scale, mode="bilinear")
        if factor is not None:
            height = math.ceil(found.shape[-2] / factor[1])
            width = math.ceil(found.shape[-1] / factor[0])
            found = F.interpolate(found, size=(height, width), mode="bilinear")
        return found[0, :, : original[0], : original[1]]

    def more_losses(
        self, output: Any, wanted: AnchorTargets, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """loss_mask of the positive cells; targets have masks."""
        counts = wanted.positive.sum(1).tolist()
        owners = torch.split(wanted.objects, counts)
        anchors = torch.split(wanted.anchors, counts)
        kernels = joined_levels(output.kernels, self.kernel_size)
        stride = self.anchors.strides[0][0]
        height, width = (stride * side for side in output.features.shape[-2:])
        step, found, goal = self.mask_loss_stride, [], []
        for i, (mark, owner, cells) in enumerate(
            zip(wanted.positive, owners, anchors, strict=True)
        ):
            sides = cells[:, 2] - cells[:, 0]
            found.append(self.masks_of(output, i, kernels[i][mark], centers(cells), sides))
            whole = pad_masks(targets[i]["masks"], (height, width))
            goal.append(whole[owner][:, step // 2 :: step, step // 2 :: step])
        average = self.average(float(sum(counts)))
        if not sum(counts):
            return {"loss_mask": output.features.sum() * 0 + kernels.sum() * 0}
        larger = F.interpolate(
            torch.cat(found)[None], scale_factor=stride // step, mode="bilinear"
        )[0]
        return {"loss_mask": self.loss_mask(larger, torch.cat(goal), avg_factor=average)}


class MaskFeatModule(nn.Module):
    """The levels at the size of the finest, fused by a convolution, four more, and a projection."""

    def __init__(
        self, in_channels: int, channels: int, num_levels: int, prototypes: int, **settings: Any
    ) -> None:
        super().__init__()
        self.fusion_conv = nn.Conv2d(num_levels * in_channels, in_channels, 1)
        self.stacked_convs = nn.Sequential(*stack(4, in_channels, channels, **settings))
        self.projection = nn.Conv2d(channels, prototypes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps [B, in_channels, h_i, w_i] -> prototypes [B, D, h, w]."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        same = [maps[0], *(F.interpolate(x, size=size, mode="bilinear") for x in maps[1:])]
        found: Tensor = self.projection(self.stacked_convs(self.fusion_conv(torch.cat(same, 1))))
        return found
