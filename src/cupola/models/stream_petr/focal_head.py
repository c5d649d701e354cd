"""FocalHead: StreamPETR's auxiliary 2-D head, which only its training uses.

Letters: B samples, N cameras, C classes, h and w size of the feature map.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.centernet.heatmaps import draw_gaussian
from cupola.models.detr3d.box_head import PRIOR_PROBABILITY
from cupola.models.layers import inverse_sigmoid
from cupola.models.matching import MatchInputs, solve_assignments
from cupola.models.stream_petr.camera_targets import CameraTargets
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import boxes as box_ops

SCORE_EPS = 1e-4  # by which centerness stays away from 0 and 1


class FocalOutput(NamedTuple):
    """Per cell of every camera, in fractions of the image.

    logits: [B * N, h * w, C]. boxes: [B * N, h * w, 4], cxcywh. centers: [B * N, h * w, 2], of the
    projected 3-D box. centerness: [B * N, h * w, 1], logits.
    """

    logits: Tensor
    boxes: Tensor
    centers: Tensor
    centerness: Tensor


@TASK_UTILS.register_module()
class HungarianAssigner2D:
    """Costs of class, box, overlap and projected center. Source: hungarian_assigner_2d.py."""

    def __init__(
        self,
        cls_cost: Mapping[str, Any],
        reg_cost: Mapping[str, Any],
        iou_cost: Mapping[str, Any],
        centers2d_cost: Mapping[str, Any],
    ) -> None:
        self.costs = [TASK_UTILS.build(cost) for cost in (cls_cost, reg_cost, iou_cost)]
        self.centers2d_cost = TASK_UTILS.build(centers2d_cost)

    @torch.no_grad()
    def cost(self, match: MatchInputs, centers: Tensor, target_centers: Tensor) -> Tensor:
        """Boxes cxcywh and centers [..., 2] in fractions of the image -> [Q, N]."""
        places = MatchInputs(match.logits, centers, match.target_labels, target_centers)
        total: Tensor = sum(cost(match) for cost in self.costs) + self.centers2d_cost(places)
        return total


@MODELS.register_module()
class FocalHead(nn.Module):
    """Classes, boxes and projected centers of every cell, and their losses.

    `use_hybrid_tokens`, `train_ratio` and `infer_ratio`, which choose tokens for another variant,
    have no effect. Source: Focal-PETR (arXiv 2212.05505); focal_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        embed_dims: int = 256,
        stride: int = 16,
        loss_cls2d: Mapping[str, Any] | None = None,
        loss_bbox2d: Mapping[str, Any] | None = None,
        loss_iou2d: Mapping[str, Any] | None = None,
        loss_centers2d: Mapping[str, Any] | None = None,
        loss_centerness: Mapping[str, Any] | None = None,
        sync_cls_avg_factor: bool = False,
        use_hybrid_tokens: bool = False,
        train_ratio: float = 1.0,
        infer_ratio: float = 1.0,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        losses = (loss_cls2d, loss_bbox2d, loss_iou2d, loss_centers2d, loss_centerness)
        built = [MODELS.build(loss) for loss in losses if loss is not None]
        self.losses = nn.ModuleList(built) if len(built) == len(losses) else None
        self.assigner = TASK_UTILS.build(train_cfg["assigner2d"]) if train_cfg else None
        self.stride = stride
        self.cls = nn.Conv2d(embed_dims, num_classes, 1)
        self.shared_reg = _shared(in_channels, embed_dims)
        self.shared_cls = _shared(in_channels, embed_dims)
        self.centerness = nn.Conv2d(embed_dims, 1, 1)
        self.ltrb = nn.Conv2d(embed_dims, 4, 1)
        self.center2d = nn.Conv2d(embed_dims, 2, 1)
        bias = -math.log(1 / PRIOR_PROBABILITY - 1)
        nn.init.constant_(self.cls.bias, bias)
        nn.init.constant_(self.centerness.bias, bias)

    def forward(self, features: Tensor, locations: Tensor) -> FocalOutput:
        """features [B, N, C, h, w]; locations [h, w, 2], (x, y) of the cells in 0..1."""
        x = features.flatten(0, 1)
        classes, places = self.shared_cls(x), self.shared_reg(x)
        ltrb = _cells(self.ltrb(places)).sigmoid()
        where = locations.flatten(0, 1)  # [h * w, 2]
        low = (where - ltrb[..., :2]).clamp(0, 1)
        high = (where + ltrb[..., 2:]).clamp(0, 1)
        return FocalOutput(
            _cells(self.cls(classes)),
            torch.cat(((low + high) / 2, high - low), -1),
            (inverse_sigmoid(where) + _cells(self.center2d(places))).sigmoid(),
            _cells(self.centerness(classes)),
        )

    def camera_losses(
        self, levels: Sequence[Tensor], targets: Sequence[CameraTargets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The losses of the first map [B, N, C, h, w] towards the objects of B * N cameras."""
        columns, rows = cell_centers(levels[0], self.stride)
        grid = torch.meshgrid(columns / size[1], rows / size[0], indexing="xy")
        return self.loss(self(levels[0], torch.stack(grid, -1)), targets, size)

    def loss(
        self, output: FocalOutput, targets: Sequence[CameraTargets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """targets of B * N cameras, images of `size` (height, width) -> five losses.

        ValueError without losses and assigner.
        """
        if self.losses is None or self.assigner is None:
            raise ValueError(
                "this FocalHead was built without training parts; give it loss_cls2d, loss_bbox2d, "
                "loss_iou2d, loss_centers2d, loss_centerness and train_cfg=dict(assigner2d=...)"
            )
        scale = output.boxes.new_tensor((size[1], size[0]))
        boxes = [box_ops.xyxy_to_cxcywh(t.boxes / scale.repeat(2)) for t in targets]
        centers = [t.centers / scale for t in targets]
        costs = [
            self.assigner.cost(MatchInputs(logits, found, t.labels, box, size), places, center)
            for logits, found, places, t, box, center in zip(
                output.logits, output.boxes, output.centers, targets, boxes, centers, strict=True
            )
        ]
        pairs = []
        for at, assigned in enumerate(solve_assignments(costs)):
            cells = (assigned >= 0).nonzero()[:, 0]
            pairs.append((torch.full_like(cells, at), cells, assigned[cells]))
        image, cell, _ = (torch.cat(part) for part in zip(*pairs, strict=True))
        wanted = [
            torch.cat([each[number] for each, (_, _, number) in zip(values, pairs, strict=True)])
            for values in ([t.labels for t in targets], boxes, centers)
        ]
        places = FocalOutput(*(part[image, cell] for part in output))
        return self._losses(output, (image, cell), places, wanted, targets, size)

    def _losses(
        self,
        output: FocalOutput,
        matched: tuple[Tensor, Tensor],
        found: FocalOutput,
        wanted: Sequence[Tensor],
        targets: Sequence[CameraTargets],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """`found` and `wanted` (labels, boxes, centers) are those of the P matched cells."""
        assert self.losses is not None
        loss_cls, loss_bbox, loss_iou, loss_centers, loss_centerness = self.losses
        labels, boxes, centers = wanted
        count = torch.tensor(float(len(labels)), device=labels.device)
        positives = max(float(mean_over_ranks(count, self.data_group)), 1.0)
        all_labels = labels.new_full(output.logits.shape[:2], self.num_classes)
        all_labels[matched] = labels
        quality = output.logits.new_zeros(output.logits.shape[:2])
        seen = box_ops.scale(box_ops.cxcywh_to_xyxy(found.boxes), size)
        true = box_ops.scale(box_ops.cxcywh_to_xyxy(boxes), size)
        quality[matched] = box_ops.iou(seen, true).detach()
        scores = output.centerness.sigmoid().clamp(SCORE_EPS, 1 - SCORE_EPS)
        return {
            "enc_loss_cls": loss_cls(
                output.logits.flatten(0, 1),
                all_labels.flatten(),
                avg_factor=positives if self.sync_cls_avg_factor else max(len(labels), 1),
                quality=quality.flatten(),
            ),
            "enc_loss_bbox": loss_bbox(found.boxes, boxes, avg_factor=positives),
            "enc_loss_iou": loss_iou(seen, true, avg_factor=positives),
            "centers2d_losses": loss_centers(found.centers, centers, avg_factor=positives),
            "centerness_losses": loss_centerness(
                scores[..., 0], self.heatmaps(targets, size), avg_factor=positives
            ),
        }

    def heatmaps(self, targets: Sequence[CameraTargets], size: tuple[int, int]) -> Tensor:
        """1 at the objects' centers, falling towards their nearest sides: [B * N, h * w]."""
        maps = []
        for target in targets:
            like = target.boxes
            heatmap = torch.zeros(
                size[0] // self.stride, size[1] // self.stride, dtype=like.dtype, device=like.device
            )
            maps.append(heatmap)
            sides = torch.cat((target.centers - like[:, :2], like[:, 2:] - target.centers), 1)
            for center, nearest in zip(target.centers, sides.amin(1).tolist(), strict=True):
                radius = max(1, math.ceil(nearest / self.stride))
                x, y = (int(each) for each in (center / self.stride).tolist())
                if x - radius < heatmap.shape[1] and y - radius < heatmap.shape[0]:
                    draw_gaussian(heatmap, x, y, radius)
        return torch.stack(maps).flatten(1)


def _shared(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1), nn.GroupNorm(32, hidden), nn.ReLU()
    )


def _cells(maps: Tensor) -> Tensor:
    """[B * N, C, h, w] -> [B * N, h * w, C]"""
    return maps.flatten(2).transpose(1, 2)


def cell_centers(features: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Columns [w] and rows [h] in pixels of the middle of every cell of maps [..., h, w]."""
    h, w = features.shape[-2:]
    size: dict[str, Any] = {"dtype": torch.float32, "device": features.device}
    return (
        torch.arange(w, **size) * stride + stride // 2,
        torch.arange(h, **size) * stride + stride // 2,
    )
