"""YOLACT's prototypes, masks made of them, and the semantic branch that helps to train.

Letters: B images, K prototypes, (h, w) their size, (H, W) of the batch's pixels, P masks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense.masked import MaskSizes
from cupola.registry import MODELS
from cupola.registry.budget import reserve
from cupola.structures import Detections
from cupola.structures.masks import pad_masks

Config = Mapping[str, Any]
Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]
SEGMENT_LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}
MARGIN = 1  # cells around a box that its mask may fill


@MODELS.register_module()
class YOLACTSegmHead(nn.Module):
    """The classes of pixels, by a 1x1 convolution; used in training alone.

    MMDetection 2.x has it as the model's `segm_head`, 3.x as `segm_branch` of YOLACTProtonet.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        loss_segm: Config = SEGMENT_LOSS,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or xavier("segm_conv")
        self.segm_conv = nn.Conv2d(in_channels, num_classes, 1)
        self.loss_segm = MODELS.build(loss_segm)

    def loss(self, x: Tensor, targets: Targets, size: Size) -> Tensor:
        """The loss of the finest map [B, in_channels, h, w] of a batch of `size` (H, W)."""
        logits = self.segm_conv(x)  # [B, C, h, w]
        losses = logits.sum() * 0
        for logit, target in zip(logits, targets, strict=True):
            if not len(target["labels"]):
                continue
            wanted = torch.zeros_like(logit)
            masks = small_masks(target, size, logit.shape[-2:])
            for label, mask in zip(target["labels"].tolist(), masks, strict=True):
                # As the original: a class is trained in the channel of the one before it.
                wanted[label - 1] = torch.maximum(wanted[label - 1], mask)
            average = float(len(logits) * logit[0].numel())
            losses = losses + self.loss_segm(logit, wanted, avg_factor=average)
        return losses


@MODELS.register_module()
class YOLACTProtonet(nn.Module):
    """Convolutions from the finest map to prototypes; masks are the sigmoid of their sums.

    A size below 0 in `proto_kernel_sizes` is a factor by which maps grow; its channels are None.
    At most `max_masks_to_train` masks of an image train.
    Source: mmdet/models/dense_heads/yolact_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        proto_channels: Sequence[int | None] = (256, 256, 256, None, 256, 32),
        proto_kernel_sizes: Sequence[int] = (3, 3, 3, -2, 3, 1),
        include_last_relu: bool = True,
        num_protos: int = 32,
        loss_mask_weight: float = 1.0,
        max_masks_to_train: int = 100,
        with_seg_branch: bool = True,
        loss_segm: Config = SEGMENT_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or xavier("protonet")
        self.weight, self.limit = loss_mask_weight, max_masks_to_train
        test_cfg = test_cfg or {}
        self.threshold = test_cfg.get("mask_thr", 0.5)
        self.soft = test_cfg.get("mask_thr_binary", 0.5) < 0  # masks of 0 and 255, uint8
        self.segm_branch = None
        if with_seg_branch:
            self.segm_branch = YOLACTSegmHead(num_classes, in_channels, loss_segm)
        layers: list[nn.Module] = []
        width = in_channels
        reserve(2 * len(proto_channels))
        for channels, kernel in zip(proto_channels, proto_kernel_sizes, strict=True):
            layers += [prototype_layer(width, channels, kernel), nn.ReLU(inplace=True)]
            width = channels or width
        self.protonet = nn.Sequential(*layers[: None if include_last_relu else -1])
        if width != num_protos:
            raise ValueError(f"the last of proto_channels is {width}, not num_protos {num_protos}")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> prototypes [B, K, h, w]."""
        prototypes: Tensor = self.protonet(maps[0])
        return prototypes

    def masks(self, prototypes: Tensor, coefficients: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """Prototypes [K, h, w], coefficients [P, K], boxes [P, 4] in `size` -> masks [P, h, w].

        Probabilities, 0 outside of the boxes.
        """
        masks = torch.einsum("khw,pk->phw", prototypes, coefficients).sigmoid()
        return masks * inside(boxes, size, masks)

    def predict(
        self, prototypes: Tensor, found: Detections, coefficients: Tensor, sizes: MaskSizes
    ) -> Tensor:
        """Prototypes [K, h, w] of an image, its detections -> masks [N, *original], bool."""
        if not len(found):
            return torch.zeros(0, *sizes.original, dtype=torch.bool, device=prototypes.device)
        # The whole map is resized, with the padding if there is any: published configs have none.
        masks = self.masks(prototypes, coefficients, found.boxes, sizes.content)
        resized = F.interpolate(masks[None], sizes.original, mode="bilinear", align_corners=False)
        pasted = resized[0] > self.threshold
        return pasted.to(torch.uint8) * 255 if self.soft else pasted

    def loss(
        self,
        prototypes: Tensor,
        positives: Sequence[tuple[Tensor, Tensor]],
        targets: Targets,
        size: Size,
        content: Sequence[Size],
    ) -> Tensor:
        """The cross entropy of masks, by the area of their boxes.

        positives: of every image the coefficients [P, K] of anchors, and their objects [P].
        size: (H, W); content: (height, width) of the images without padding.
        """
        total, count = prototypes.sum() * 0, 0
        for i, (rows, owners) in enumerate(positives):
            target, shape = targets[i], content[i]
            boxes = target["boxes"].to(prototypes)[owners]
            masks = self.masks(prototypes[i], rows, boxes, shape)
            if not len(owners):
                total = total + masks.sum() * 0
                continue
            if len(owners) > self.limit:
                drawn = torch.randperm(len(owners))[: self.limit].to(owners.device)
                masks, owners, boxes = masks[drawn], owners[drawn], boxes[drawn]
            wanted = small_masks(target, size, masks.shape[-2:])[owners].to(masks)
            each = F.binary_cross_entropy(masks.clamp(0, 1), wanted, reduction="none")
            sides = (boxes[:, 2:] - boxes[:, :2]) / boxes.new_tensor([shape[1], shape[0]])
            total = total + (self.weight * each.mean((1, 2)) / sides[:, 0] / sides[:, 1]).sum()
            count += len(owners)
        return total / max(count, 1)


class Larger(nn.Module):
    """Bilinear interpolation by a factor."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)


def prototype_layer(width: int, channels: int | None, kernel: int) -> nn.Module:
    """A convolution, or for a negative `kernel` a layer that makes maps larger."""
    if kernel > 0 and channels is not None:
        return nn.Conv2d(width, channels, kernel, padding=kernel // 2)
    if kernel < 0 and channels is None:
        return Larger(-kernel)
    raise ValueError("proto_channels are None where proto_kernel_sizes are below 0, and only there")


def inside(boxes: Tensor, size: Size, like: Tensor) -> Tensor:
    """Which cells of maps [P, h, w] are in boxes [P, 4] of an image of `size`, with a margin."""
    height, width = like.shape[-2:]
    scale = boxes.new_tensor([width / size[1], height / size[0]])
    low = (torch.minimum(boxes[:, :2], boxes[:, 2:]) * scale - MARGIN).clamp(min=0)
    high = torch.maximum(boxes[:, :2], boxes[:, 2:]) * scale + MARGIN
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    across = (x >= low[:, :1]) & (x < high[:, :1])  # [P, w]
    down = (y >= low[:, 1:]) & (y < high[:, 1:])  # [P, h]
    return (down[:, :, None] & across[:, None]).to(like.dtype)


def small_masks(target: Mapping[str, Tensor], size: Size, small: Sequence[int]) -> Tensor:
    """An image's masks, padded to `size`, at the size of maps: [N, h, w], 0 or 1, float."""
    if "masks" not in target:
        raise ValueError("targets need masks to train this model: load annotations with_mask")
    masks = pad_masks(target["masks"], size).float()
    found = F.interpolate(masks[None], tuple(small), mode="bilinear", align_corners=False)[0]
    return (found > 0.5).float()


def xavier(name: str) -> Config:
    """Xavier's uniform initialization of the layers with that name."""
    return {"type": "Xavier", "distribution": "uniform", "override": {"name": name}}
