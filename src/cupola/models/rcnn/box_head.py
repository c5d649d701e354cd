"""The heads that classify regions and refine their boxes.

Letters: R regions, C classes, K sampled regions of a batch, P positive ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes import clip
from cupola.models.dense import Candidates
from cupola.models.rcnn.branches import Branches, layer_counts, predictor
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS, TASK_UTILS

Config = Mapping[str, Any]
Size = tuple[int, int]
CODER: Config = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
INITIAL = (
    {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
    {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}},
)
XAVIER: Config = {
    "type": "Xavier",
    "distribution": "uniform",
    "override": [{"name": "shared_fcs"}, {"name": "cls_fcs"}, {"name": "reg_fcs"}],
}


@MODELS.register_module()
class BBoxHead(nn.Module):
    """A linear layer each for classes and deltas, after shared and separate layers.

    `num_shared_convs`, `num_shared_fcs`, ... are their numbers; the plain BBoxHead has none.
    With `reg_class_agnostic` all classes share one box. `with_avg_pool` averages a region first.
    Source: mmdet/models/roi_heads/bbox_heads.
    """

    layers: ClassVar[Config] = {}

    def __init__(
        self,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        roi_feat_size: int | Sequence[int] = 7,
        in_channels: int = 256,
        num_classes: int = 80,
        bbox_coder: Config = CODER,
        predict_box_type: str = "hbox",
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: Config | None = None,
        cls_predictor_cfg: Config | None = None,
        loss_cls: Config | None = None,
        loss_bbox: Config | None = None,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
        **layers: int,
    ) -> None:
        super().__init__()
        counts = layer_counts({**self.layers, **layers})
        self.num_classes, self.class_agnostic = num_classes, reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls or {"type": "CrossEntropyLoss"})
        self.loss_bbox = MODELS.build(loss_bbox or {"type": "SmoothL1Loss"})
        h, w = (roi_feat_size,) * 2 if isinstance(roi_feat_size, int) else roi_feat_size
        area = 1 if with_avg_pool else h * w
        branches = Branches(conv_out_channels, fc_out_channels, area, conv_cfg, norm_cfg)
        shared, width, flat = branches.make(in_channels, counts["shared"], False)
        for_class, class_width, class_flat = branches.make(width, counts["cls"], flat)
        for_box, box_width, box_flat = branches.make(width, counts["reg"], flat)
        class_width *= 1 if class_flat else area
        box_width *= 1 if box_flat else area
        self.pool = nn.AvgPool2d((h, w)) if with_avg_pool else None
        outputs = num_classes + 1
        if hasattr(self.loss_cls, "channels"):
            outputs = self.loss_cls.channels(num_classes)
        sides = self.bbox_coder.size * (1 if reg_class_agnostic else num_classes)
        self.fc_cls = predictor(cls_predictor_cfg, class_width, outputs) if with_cls else None
        self.fc_reg = predictor(reg_predictor_cfg, box_width, sides) if with_reg else None
        self.shared_convs, self.shared_fcs = shared
        self.cls_convs, self.cls_fcs = for_class
        self.reg_convs, self.reg_fcs = for_box
        ours = [each for each, used in zip(INITIAL, (with_cls, with_reg), strict=True) if used]
        self.init_cfg = init_cfg or [*ours, *([XAVIER] if any(map(sum, counts.values())) else [])]

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Regions [R, in_channels, h, w] -> logits [R, C + 1], deltas [R, C * 4] or [R, 4]."""
        return self.outputs(self.shared(x))

    def shared(self, x: Tensor) -> Tensor:
        """Regions [R, in_channels, h, w] -> what both predictions are made of."""
        return self._branch(x, self.shared_convs, self.shared_fcs)

    def outputs(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What `shared` returns -> logits and deltas."""
        for_class = self._flat(self._branch(x, self.cls_convs, self.cls_fcs))
        for_box = self._flat(self._branch(x, self.reg_convs, self.reg_fcs))
        return (
            None if self.fc_cls is None else self.fc_cls(for_class),
            None if self.fc_reg is None else self.fc_reg(for_box),
        )

    def _branch(self, x: Tensor, convs: nn.ModuleList, layers: nn.ModuleList) -> Tensor:
        for conv in convs:
            x = conv(x)
        if len(layers):
            x = self._flat(x)
        for layer in layers:
            x = F.relu(layer(x))
        return x

    def _flat(self, x: Tensor) -> Tensor:
        if x.dim() > 2 and self.pool is not None:
            x = self.pool(x)
        return x.flatten(1)

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [R, C + 1] -> scores [R, C + 1], the background last."""
        if hasattr(self.loss_cls, "scores"):
            found: Tensor = self.loss_cls.scores(logits)
            return found
        return logits.softmax(-1)

    def boxes(self, regions: Tensor, deltas: Tensor | None, size: Size | None) -> Tensor:
        """Regions [R, 4] and deltas -> boxes [R, C, 4], or [R, 1, 4] if classes share them."""
        if deltas is None:
            return (regions if size is None else clip(regions, size))[:, None]
        width = self.bbox_coder.size
        deltas = deltas.view(len(deltas), deltas.shape[1] // width, width)  # R may be 0
        found: Tensor = self.bbox_coder.decode(regions[:, None], deltas, size)
        return found

    def scored_boxes(
        self, regions: Tensor, logits: Tensor, deltas: Tensor | None, size: Size | None
    ) -> tuple[Tensor, Tensor]:
        """Regions [R, 4] and their output -> scores [R, C] and boxes [R, C or 1, 4]."""
        return self.scores(logits)[:, :-1], self.boxes(regions, deltas, size)

    def detected(
        self, regions: Tensor, logits: Tensor, deltas: Tensor | None, size: Size, cfg: Config
    ) -> Candidates:
        """Regions [R, 4] and their output -> the boxes with scores above `score_thr`."""
        return self.candidates(self.boxes(regions, deltas, size), self.scores(logits), cfg)

    def candidates(self, boxes: Tensor, scores: Tensor, cfg: Config) -> Candidates:
        """Boxes [R, C or 1, 4] and scores [R, C + 1] -> those above `score_thr`."""
        scores = scores[:, :-1]
        regions, classes = (scores > cfg.get("score_thr", 0)).nonzero(as_tuple=True)
        which = classes if boxes.shape[1] > 1 else torch.zeros_like(classes)
        return Candidates(boxes[regions, which], scores[regions, classes], classes)

    def refine(self, regions: Tensor, labels: Tensor, deltas: Tensor, size: Size) -> Tensor:
        """Regions [R, 4] moved by the deltas of their classes [R] -> [R, 4]."""
        boxes = self.boxes(regions, deltas, size)
        which = torch.zeros_like(labels) if self.class_agnostic else labels
        return boxes[torch.arange(len(boxes), device=boxes.device), which]

    def loss(
        self,
        logits: Tensor | None,
        deltas: Tensor | None,
        samples: Sequence[RoISample],
        cfg: Config,
    ) -> dict[str, Tensor]:
        """loss_cls, acc (percent) and loss_bbox of the sampled regions, image by image."""
        labels, weights = self.class_targets(samples, cfg)
        positive = labels < self.num_classes
        losses = {}
        if logits is not None:
            average = max(float((weights > 0).sum()), 1.0)
            losses = self.class_loss(logits, labels, weights, average)
        if deltas is not None:
            losses["loss_bbox"] = self.box_loss(deltas, labels, positive, samples)
        return losses

    def class_targets(self, samples: Sequence[RoISample], cfg: Config) -> tuple[Tensor, Tensor]:
        """Labels [K], C for the background, and their weights [K].

        Weights are the samples' own; otherwise `pos_weight` of positive ones, and 1.
        """
        labels, weights = [], []
        factor = cfg.get("pos_weight", -1)
        for each in samples:
            wanted = each.boxes.new_full((len(each.boxes),), self.num_classes, dtype=torch.int64)
            wanted[: len(each.labels)] = each.labels
            weight = each.boxes.new_ones(len(each.boxes))
            weight[: len(each.labels)] = factor if factor > 0 else 1.0
            if each.positive_weights is not None:
                weight[: len(each.labels)] = each.positive_weights
            if each.negative_weights is not None:
                weight[len(each.labels) :] = each.negative_weights
            labels.append(wanted)
            weights.append(weight)
        return torch.cat(labels), torch.cat(weights)

    def class_loss(
        self, logits: Tensor, labels: Tensor, weights: Tensor, average: float
    ) -> dict[str, Tensor]:
        """loss_cls, or the losses by the names that the loss gives, and acc."""
        if not len(logits):
            return {"loss_cls": logits.sum()}
        found = self.loss_cls(logits, labels, weights, avg_factor=average)
        if isinstance(found, dict):
            return found
        if hasattr(self.loss_cls, "accuracy"):
            return {"loss_cls": found, **self.loss_cls.accuracy(logits, labels)}
        right = (logits.argmax(-1) == labels).float().mean() * 100
        return {"loss_cls": found, "acc": right.detach()}

    def box_loss(
        self, deltas: Tensor, labels: Tensor, positive: Tensor, samples: Sequence[RoISample]
    ) -> Tensor:
        """The loss of the positive regions, divided by the number of all."""
        if not positive.any():
            return deltas[positive].sum()
        found = self.deltas_of(deltas[positive], labels[positive])  # [P, 4]
        regions = torch.cat([each.positive for each in samples])
        targets = torch.cat([each.targets for each in samples])
        if self.reg_decoded_bbox:
            found = self.bbox_coder.decode(regions, found)
        else:
            targets = self.bbox_coder.encode(regions, targets)
        loss: Tensor = self.loss_bbox(found, targets, avg_factor=float(len(labels)))
        return loss

    def deltas_of(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """The deltas for the classes [R] of regions: [R, C * 4] or [R, 4] -> [R, 4]."""
        which = torch.zeros_like(labels) if self.class_agnostic else labels
        size = self.bbox_coder.size
        every = deltas.view(len(deltas), deltas.shape[1] // size, size)
        return every[torch.arange(len(every), device=every.device), which]


@MODELS.register_module()
class ConvFCBBoxHead(BBoxHead):
    """A BBoxHead whose layers the config names."""


@MODELS.register_module()
class Shared2FCBBoxHead(BBoxHead):
    """Two linear layers before both predictions."""

    layers: ClassVar[Config] = {"num_shared_fcs": 2}


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(BBoxHead):
    """Four convolutions and a linear layer before both predictions."""

    layers: ClassVar[Config] = {"num_shared_convs": 4, "num_shared_fcs": 1}
