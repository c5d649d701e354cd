"""Detectors of two stages: proposals, then a head for the regions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import ImageSizes
from cupola.models.detector import Detector
from cupola.models.rcnn.masks import with_padded_masks
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]


class TwoStageDetector(Detector):
    """`rpn_head` proposes boxes; `roi_head` classifies and refines them, and adds masks.

    train_cfg and test_cfg hold the settings of both (`rpn`, `rcnn`, `rpn_proposal`).
    Source: mmdet/models/detectors/two_stage.py.
    """

    def __init__(
        self,
        backbone: Config,
        roi_head: Config,
        rpn_head: Config | None = None,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(backbone, None, neck, None, None, data_preprocessor, pretrained, init_cfg)
        train, test = train_cfg or {}, test_cfg or {}
        self.proposal_cfg: Config = train.get("rpn_proposal") or test.get("rpn") or {}
        self.rpn_head = None
        if rpn_head:
            cfgs = {"train_cfg": train.get("rpn"), "test_cfg": test.get("rpn")}
            self.rpn_head = MODELS.build({**rpn_head, **cfgs})
        cfgs = {"train_cfg": train.get("rcnn"), "test_cfg": test.get("rcnn")}
        self.roi_head = MODELS.build({**roi_head, **cfgs})

    fixed_axes = ("batch", "height", "width")  # that exported graphs fix
    engine_method = "maps"  # what follows depends on the number of proposals
    takes_views = True  # whether the second stage can average several views of an image

    @property
    def needs_proposals(self) -> bool:
        """Whether batches must have proposals, since the model makes none."""
        return self.rpn_head is None

    @property
    def predicts_masks(self) -> bool:
        """Whether the model segments objects."""
        return bool(self.roi_head.predicts_masks)

    @property
    def num_classes(self) -> int:
        """The number of classes, without the background."""
        head = self.roi_head.bbox_head
        return int((head[-1] if isinstance(head, nn.ModuleList) else head).num_classes)

    def forward(
        self,
        pixels: Tensor,
        padding_mask: Tensor | None = None,
        sizes: Sequence[Size] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> Any:
        """pixels [B, 3, H, W] -> the output of the RoI head for the proposals in test mode."""
        maps = self.maps(pixels)
        whole = [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels)
        sizes = sizes or whole
        return self.roi_head(maps, self.proposals(maps, sizes, proposals), sizes)

    def proposals(
        self, maps: Sequence[Tensor], sizes: Sequence[Size], given: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Proposals [R_i, 4] of every image, xyxy in pixels of the input, or those `given`."""
        if given is not None:
            return [each.to(maps[0]) for each in given]
        if self.rpn_head is None:
            raise ValueError("the model has no rpn_head: the batch needs proposals, [R, 4] each")
        output = self.rpn_output(maps, sizes)
        return [each.boxes for each in self.rpn_head.propose(output, sizes, self.rpn_head.test_cfg)]

    def rpn_output(self, maps: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """What the head of proposals says of the maps of images of (height, width)."""
        head: Any = self.rpn_head
        return head(maps, sizes) if getattr(head, "needs_sizes", False) else head(maps)

    def scored_boxes(
        self, pixels: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores [1, P, C] and boxes [1, P, C, 4] of one image's proposals: what is exported."""
        if self.rpn_head is None:
            raise ValueError("the model has no rpn_head: it cannot be exported without proposals")
        if not hasattr(self.rpn_head, "fixed_proposals"):
            raise ValueError(f"proposals of {type(self.rpn_head).__name__} cannot be exported")
        maps, size = self.maps(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1]))
        output = self.rpn_output(maps, [size] * len(pixels))
        proposals = self.rpn_head.fixed_proposals(output, size)
        scores, boxes = self.roi_head.scored_boxes(maps, proposals, size)
        return scores[None], boxes.expand(-1, scores.shape[-1], -1)[None]

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels, masks)."""
        return self.loss_of_maps(self.maps(batch["pixels"]), batch)

    def loss_of_maps(self, maps: Sequence[Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of both stages, from the feature maps of the batch's pixels."""
        sizes = ImageSizes.of(batch)
        targets = with_padded_masks(batch["targets"], batch["pixels"])
        losses: dict[str, Tensor] = {}
        if self.rpn_head is None:
            proposals = self.proposals(maps, sizes.content, batch.get("proposals"))
        else:
            output = self.rpn_output(maps, sizes.content)
            objects = [{**each, "labels": torch.zeros_like(each["labels"])} for each in targets]
            losses = self.rpn_head.loss(output, objects, sizes)
            with torch.no_grad():
                found = self.rpn_head.propose(output, sizes.content, self.proposal_cfg)
            proposals = [each.boxes for each in found]
        named = {k if "rpn" in k else f"rpn_{k}": v for k, v in losses.items()}
        return named | self.roi_head.loss(maps, proposals, targets, sizes.content)

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        maps, sizes = self.maps(batch["pixels"]), batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        proposals = self.proposals(maps, sizes, batch.get("proposals"))
        originals = batch.get("original_sizes") or sizes
        found: list[Detections] = self.roi_head.predict(maps, proposals, sizes, factors, originals)
        return found


@MODELS.register_module()
class FastRCNN(TwoStageDetector):
    """Fast R-CNN (arXiv 1504.08083): the batch has the proposals."""


@MODELS.register_module()
class FasterRCNN(TwoStageDetector):
    """Faster R-CNN (arXiv 1506.01497)."""


@MODELS.register_module()
class MaskRCNN(TwoStageDetector):
    """Mask R-CNN (arXiv 1703.06870)."""


@MODELS.register_module()
class CascadeRCNN(TwoStageDetector):
    """Cascade R-CNN (arXiv 1712.00726): each stage refines the boxes of the one before."""
