"""CornerNet and its head.

Letters: B images, C classes, D channels of an embedding, (h, w) a level's map.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.cornernet.pairing import Corners, best_corners, pairs
from cupola.models.cornernet.pooling import BiCornerPool
from cupola.models.cornernet.targets import CornerTargets, corner_targets
from cupola.models.dense import Candidates, ImageSizes, SingleStageDetector, suppress
from cupola.models.layers import ConvModule
from cupola.registry import MODELS
from cupola.registry.budget import reserve
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]
HEAT_LOSS: Config = {"type": "GaussianFocalLoss", "alpha": 2.0, "gamma": 4.0}
EMBEDDING_LOSS: Config = {"type": "AssociativeEmbeddingLoss"}
OFFSET_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1.0}
KINDS = {"tl": ("top", "left"), "br": ("bottom", "right")}  # corners, and what they pool
WIDTH = 256  # channels between the two convolutions of a prediction
HEAT_BIAS = -2.19722457734  # of a score of 0.1
MOST_PAIRS = 1000


class CornerLevel(NamedTuple):
    """Of one kind of corner on a level: heat [B, C, h, w], logits; offset [B, 2, h, w].

    embedding [B, D, h, w], or guiding and centripetal [B, 2, h, w], as the head has it.
    """

    heat: Tensor
    offset: Tensor
    embedding: Tensor | None = None
    guiding: Tensor | None = None
    centripetal: Tensor | None = None


class CornerOutput(NamedTuple):
    """The top left and bottom right corners of every level, of a batch of `size` (H, W).

    corner: (top, left) of the images in their padding, which boxes do not cross.
    """

    top_left: tuple[CornerLevel, ...]
    bottom_right: tuple[CornerLevel, ...]
    size: Size = (0, 0)
    corner: Size = (0, 0)

    def kinds(self) -> tuple[tuple[CornerLevel, ...], tuple[CornerLevel, ...]]:
        """Both kinds of corners."""
        return self.top_left, self.bottom_right


@MODELS.register_module()
class CornerNet(SingleStageDetector):
    """Source: mmdet/models/detectors/cornernet.py."""

    fixed_axes = ("batch", "height", "width")  # that exported graphs fix

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> CornerOutput:
        """pixels [B, 3, H, W] -> CornerOutput."""
        output: CornerOutput = super().forward(pixels)
        return output._replace(size=(int(pixels.shape[-2]), int(pixels.shape[-1])))

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given.

        `corner` is the (top, left) of all images of the batch in their padding.
        """
        output = self(batch["pixels"])._replace(corner=batch.get("corner", (0, 0)))
        factors = batch.get("scale_factors") or [None] * len(batch["image_sizes"])
        found: list[Detections] = self.head.predict(output, batch["image_sizes"], factors)
        return found


@MODELS.register_module()
class CornerHead(nn.Module):
    """Heatmaps, offsets and embeddings of both kinds of corners, from each of the levels.

    All levels have the same size, and train; the last one predicts.
    Source: mmdet/models/dense_heads/corner_head.py.
    """

    centered = False  # whether corners are paired by the centers that they point to

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_feat_levels: int = 2,
        corner_emb_channels: int = 1,
        loss_heatmap: Config = HEAT_LOSS,
        loss_embedding: Config | None = EMBEDDING_LOSS,
        loss_offset: Config = OFFSET_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
    ) -> None:
        super().__init__()
        if corner_emb_channels != (0 if self.centered else 1):
            raise ValueError(
                "corner_emb_channels is 1 for CornerHead, 0 for CentripetalHead; "
                f"got {corner_emb_channels}"
            )
        reserve(num_feat_levels)
        self.num_classes, self.in_channels, self.levels = num_classes, in_channels, num_feat_levels
        self.test_cfg = dict(test_cfg or {})
        self.loss_heatmap = MODELS.build(loss_heatmap)
        self.loss_offset = MODELS.build(loss_offset)
        for kind, directions in KINDS.items():
            self.add_module(
                f"{kind}_pool",
                nn.ModuleList(
                    BiCornerPool(in_channels, directions, out_channels=in_channels)
                    for _ in range(num_feat_levels)
                ),
            )
        self.add_predictions("heat", num_classes)
        self.add_predictions("off", 2)
        if corner_emb_channels:
            self.loss_embedding = MODELS.build(loss_embedding or EMBEDDING_LOSS)
            self.add_predictions("emb", corner_emb_channels)

    def add_predictions(self, name: str, channels: int) -> None:
        """Adds layers that predict `channels` numbers of a cell, of both corners and all levels."""
        for kind in KINDS:
            layers = nn.ModuleList(
                nn.Sequential(
                    ConvModule(self.in_channels, WIDTH, 3, padding=1),
                    ConvModule(WIDTH, channels, 1, act_cfg=None),
                )
                for _ in range(self.levels)
            )
            self.add_module(f"{kind}_{name}", layers)

    def init_weights(self) -> None:
        """Last layers as torch begins; heatmaps with a score of 0.1."""
        names = [f"{kind}_{name}" for kind in KINDS for name in ("heat", "off", "emb")]
        for name in names:
            for layers in getattr(self, name, ()):
                layers[-1].conv.reset_parameters()
                if name.endswith("heat"):
                    nn.init.constant_(layers[-1].conv.bias, HEAT_BIAS)

    def forward(self, maps: Sequence[Tensor]) -> CornerOutput:
        """Feature maps [B, in_channels, h, w] of all levels -> CornerOutput."""
        corners = {
            kind: tuple(
                self.level(kind, i, getattr(self, f"{kind}_pool")[i](x))
                for i, x in enumerate(maps[: self.levels])
            )
            for kind in KINDS
        }
        return CornerOutput(corners["tl"], corners["br"])

    def level(self, kind: str, level: int, x: Tensor) -> CornerLevel:
        """Pooled features of a level -> what is predicted of one kind of corner."""
        heat, offset = (getattr(self, f"{kind}_{name}")[level](x) for name in ("heat", "off"))
        return CornerLevel(heat, offset, getattr(self, f"{kind}_emb")[level](x))

    def best(self, level: CornerLevel, image: int, scale: Tensor, sign: int) -> Corners:
        """The best corners of an image, with their embeddings; `scale` is the size of a cell."""
        assert level.embedding is not None
        parts = [each[image].float() for each in (level.heat, level.offset, level.embedding)]
        scores, labels, points, extra = best_corners(parts, self.test_cfg)
        return Corners(scores, labels, points * scale, extra)

    def boxes(self, output: CornerOutput, image: int) -> Candidates:
        """The best pairs of corners of an image; those that do not fit have the score -1."""
        height, width = output.top_left[-1].heat.shape[-2:]
        scale = output.top_left[-1].heat.new_tensor(
            [output.size[1] / width, output.size[0] / height]
        )
        first = self.best(output.top_left[-1], image, scale, 1)
        second = self.best(output.bottom_right[-1], image, scale, -1)
        threshold = self.test_cfg["distance_threshold"]
        origin = output.corner[1], output.corner[0]
        return Candidates(*pairs(first, second, threshold, MOST_PAIRS, self.centered, origin))

    def scored_boxes(self, output: CornerOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, M, C] and boxes [B, M, 4], xyxy in pixels, of the best pairs."""
        images = [self.boxes(output, i) for i in range(len(output.top_left[-1].heat))]
        classes = torch.arange(self.num_classes, device=images[0].labels.device)
        scores = [
            each.scores.clamp(min=0)[:, None] * (each.labels[:, None] == classes) for each in images
        ]
        return torch.stack(scores), torch.stack([each.boxes for each in images])

    def predict(
        self,
        output: CornerOutput,
        sizes: Sequence[Size],
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image, in pixels of the original."""
        nms = self.test_cfg.get("nms") or self.test_cfg.get("nms_cfg")
        cfg = {"nms": nms, "max_per_img": self.test_cfg.get("max_per_img", -1)}
        found = []
        for i, factor in enumerate(scale_factors):
            boxes, scores, labels = self.boxes(output, i)
            fits = scores > -0.1
            found.append(suppress(Candidates(boxes[fits], scores[fits], labels[fits]), cfg, factor))
        return found

    def loss(self, output: CornerOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """The losses of the level summed: det_loss, off_loss, pull_loss and push_loss, ..."""
        wanted = corner_targets(targets, output.top_left[-1].heat.detach(), output.size)
        totals: dict[str, Tensor] = {}
        for levels in zip(*output.kinds(), strict=True):
            for name, value in self.level_losses(levels, wanted).items():
                totals[name] = totals[name] + value if name in totals else value
        return totals

    def level_losses(
        self, levels: Sequence[CornerLevel], wanted: Sequence[CornerTargets]
    ) -> dict[str, Tensor]:
        """The losses of both kinds of corners on a level."""
        embeddings = [
            [
                each[:, rows, columns].T
                for each, (rows, columns) in zip(
                    level.embedding, (cells.unbind(1) for cells in goal.cells), strict=True
                )
            ]
            for level, goal in zip(levels, wanted, strict=True)
            if level.embedding is not None
        ]
        losses = self.place_losses(levels, wanted)
        if embeddings:
            losses["pull_loss"], losses["push_loss"] = self.loss_embedding(*embeddings)
        return losses

    def place_losses(
        self, levels: Sequence[CornerLevel], wanted: Sequence[CornerTargets]
    ) -> dict[str, Tensor]:
        """det_loss and off_loss, the means of both kinds of corners."""
        found, shifts = [], []
        for level, goal in zip(levels, wanted, strict=True):
            count = max(float((goal.heat == 1).sum()), 1.0)
            found.append(self.loss_heatmap(level.heat.sigmoid(), goal.heat, avg_factor=count))
            mask = goal.mask
            average = max(float(mask.sum()), 1.0)
            shifts.append(self.loss_offset(level.offset, goal.offset, mask, avg_factor=average))
        return {"det_loss": sum(found) / 2, "off_loss": sum(shifts) / 2}
