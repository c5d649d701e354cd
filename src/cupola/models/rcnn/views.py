"""Proposals of several views of an image, and two stages on them: the second one sees all.

Source: `aug_test` of MMDetection 2.28 (models/detectors/rpn.py, roi_heads/test_mixins.py,
cascade_roi_head.py, htc_roi_head.py, scnet_roi_head.py, point_rend_roi_head.py,
core/post_processing/merge_augs.py). Letters: P proposals, C classes, N detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import suppress
from cupola.models.dense.postprocess import Candidates
from cupola.models.rcnn.detector import TwoStageDetector
from cupola.models.rcnn.pasting import paste_masks
from cupola.models.rpn.head import of_version_3
from cupola.structures import Detections

Size = tuple[int, int]
AXES = {None: (), "horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}  # of [..., h, w]


@dataclass(frozen=True)
class View:
    """An image resized and perhaps flipped, in a batch of one.

    pixels: [1, 3, H, W], padded. content: (height, width) of the resized image. size: where boxes
    are clipped, (height, width). factor: (x, y) from the image to the view. flip: a key of AXES.
    corner: (top, left) of the resized image in the padded one.
    """

    pixels: Tensor
    content: Size
    size: Size
    factor: tuple[float, float]
    flip: str | None = None
    corner: Size = (0, 0)

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the view in pixels of the image."""
        inner = boxes - self._corner(boxes)
        return self._flipped(inner) / boxes.new_tensor([*self.factor, *self.factor])

    def from_image(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the image in pixels of the view."""
        inner = self._flipped(boxes * boxes.new_tensor([*self.factor, *self.factor]))
        return inner + self._corner(boxes)

    def _corner(self, boxes: Tensor) -> Tensor:
        return boxes.new_tensor([self.corner[1], self.corner[0]] * 2)

    def _flipped(self, boxes: Tensor) -> Tensor:
        return flipped(boxes, self.content, self.flip)


def flipped(boxes: Tensor, size: Size, flip: str | None) -> Tensor:
    """Boxes [..., 4] in an image of (height, width) in the flipped one."""
    left, top, right, bottom = boxes.unbind(-1)
    if -1 in AXES[flip]:
        left, right = size[1] - right, size[1] - left
    if -2 in AXES[flip]:
        top, bottom = size[0] - bottom, size[0] - top
    return torch.stack((left, top, right, bottom), -1)


def takes_views(model: Any) -> bool:
    """Whether `predict_views` knows the parts of a model."""
    if not isinstance(model, TwoStageDetector) or model.rpn_head is None:
        return False
    return model.takes_views and getattr(model.rpn_head, "takes_views", True)


@torch.no_grad()
def predict_views(model: Any, views: Sequence[View], original: Size) -> Detections:
    """Detections in an image of (height, width) `original`, from all views of it.

    Proposals of all views have one NMS; the boxes and scores that the second stage gives each are
    averaged over the views before its NMS.
    """
    maps = [_maps(model, view) for view in views]
    proposed = []
    for view, each in zip(views, maps, strict=True):
        output = model.rpn_output(each, [view.size])
        proposed += model.rpn_head.propose(output, [view.size], model.rpn_head.test_cfg)
    proposals = merged_proposals(model.rpn_head, views, proposed).boxes
    boxes, scores = [], []
    for view, each in zip(views, maps, strict=True):
        scored = getattr(model.roi_head, "scored_regions", model.roi_head.scored_boxes)
        score, box = scored(each, view.from_image(proposals), view.size)
        boxes.append(view.to_image(box.float()))
        scores.append(score.float())
    mean_boxes, mean_scores = (torch.stack(each).mean(0) for each in (boxes, scores))
    settings = model.roi_head.test_cfg
    rows, labels = (mean_scores > settings.get("score_thr", 0)).nonzero(as_tuple=True)
    which = labels if mean_boxes.shape[1] > 1 else torch.zeros_like(labels)
    candidates = Candidates(mean_boxes[rows, which], mean_scores[rows, labels], labels)
    found = suppress(candidates, settings)
    return with_view_masks(model, maps, views, found, original) if model.predicts_masks else found


def merged_proposals(
    head: Any, views: Sequence[View], proposed: Sequence[Detections]
) -> Detections:
    """The best of a head's proposals in every view, in pixels of the image."""
    boxes = [view.to_image(each.boxes) for view, each in zip(views, proposed, strict=True)]
    scores = torch.cat([each.scores for each in proposed])
    candidates = Candidates(torch.cat(boxes), scores, torch.zeros_like(scores, dtype=torch.int64))
    settings = of_version_3(head.test_cfg)
    threshold = (settings.get("nms") or {}).get("iou_threshold", 0.7)
    limits = {"nms": {"type": "nms", "iou_threshold": threshold}}
    return suppress(candidates, {**limits, "max_per_img": settings.get("max_per_img", -1)})


@torch.no_grad()
def propose_views(model: Any, views: Sequence[View], original: Size) -> Detections:
    """The proposals of an RPN in all views of an image."""
    proposed: list[Detections] = []
    for view in views:
        output = model.outputs(view.pixels, [view.size])
        proposed += model.head.propose(output, [view.size], model.head.test_cfg)
    return merged_proposals(model.head, views, proposed)


def _maps(model: Any, view: View) -> Any:
    """The maps of a view, with the features of further branches where the RoI head has some."""
    maps = model.maps(view.pixels)
    extended = getattr(model.roi_head, "with_semantic", None)
    return maps if extended is None else extended(maps)


@torch.no_grad()
def with_masks_of_views(
    model: Any, views: Sequence[View], found: Detections, original: Size
) -> Detections:
    """Detections in pixels of the image, with masks [N, *original] of all views."""
    maps = [_maps(model, view) for view in views]
    return with_view_masks(model, maps, views, found, original)


def with_view_masks(
    model: Any,
    maps: Sequence[Sequence[Tensor]],
    views: Sequence[View],
    found: Detections,
    original: Size,
) -> Detections:
    """The probabilities of the masks are averaged in the regions, then pasted into the image."""
    if not len(found):
        return replace(found, masks=torch.zeros(0, *original, dtype=torch.bool))
    device = maps[0][0].device
    boxes, labels = found.boxes.to(device), found.labels.to(device)
    masks = []
    for view, each in zip(views, maps, strict=True):
        seen = replace(found, boxes=view.from_image(boxes), labels=labels)
        (mask,) = model.roi_head.predict_masks(each, [seen])
        masks.append(mask.flip(AXES[view.flip]))
    mean = torch.stack(masks).mean(0)
    threshold = model.roi_head.test_cfg["mask_thr_binary"]
    return replace(found, masks=paste_masks(mean, boxes, original, threshold))
