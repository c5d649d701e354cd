"""Detectors of one stage with two heads: one for boxes, and one for the masks of these boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.detector import Detector
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]


class MaskedOutput(NamedTuple):
    """boxes: the output of the head for boxes; features [B, D, h, w], of which masks are made."""

    boxes: Any
    features: Tensor


class MaskSizes(NamedTuple):
    """(height, width) of an image without padding, with it, and of the original image."""

    content: Size
    padded: Size
    original: Size


class MaskedDetector(Detector):
    """Abstract: `bbox_head` says of every box how `mask_head` makes its mask from its features.

    Subclasses define `loss` and `exported`. `segm_head` is a branch for training, where configs of
    MMDetection 2.x have it. Source: mmdet/models/detectors/single_stage_instance_seg.py.
    """

    predicts_masks = True
    exported_names: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        mask_head: Config,
        neck: Config | None = None,
        segm_head: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        settings = {"train_cfg": train_cfg, "test_cfg": test_cfg}
        more = (data_preprocessor, pretrained, init_cfg)
        super().__init__(backbone, bbox_head, neck, train_cfg, test_cfg, *more)
        self.segm_head = MODELS.build(segm_head) if segm_head else None
        self.mask_head = MODELS.build({**mask_head, **settings})

    @property
    def num_classes(self) -> int:
        """The number of classes, without the background."""
        return int(self.bbox_head.num_classes)

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> MaskedOutput:
        """pixels [B, 3, H, W] -> MaskedOutput. Padding is zeros like any other pixels."""
        return self.outputs(self.maps(pixels))

    def outputs(self, maps: Sequence[Tensor]) -> MaskedOutput:
        """Feature maps, finest first -> MaskedOutput."""
        return MaskedOutput(self.bbox_head(maps), self.mask_head(maps))

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """What an exported program computes of pixels [B, 3, H, W], before thresholds and NMS."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections with masks per image, in pixels of `original_sizes` if these are given."""
        pixels, sizes = batch["pixels"], batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        originals = batch.get("original_sizes") or sizes
        padded = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        output, answers = self(pixels), []
        for i, (found, parts) in enumerate(self.bbox_head.detect(output.boxes, sizes)):
            shapes = MaskSizes(sizes[i], padded, originals[i])
            masks = self.mask_head.predict(output.features[i].float(), found, parts, shapes)
            boxes = found.boxes
            if (factor := factors[i]) is not None:
                boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
            answers.append(replace(found, boxes=boxes, masks=masks))
        return answers
