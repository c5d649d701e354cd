"""AugmentedPredictor: detections in several views of an image, merged (test-time augmentation)."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from cupola.errors import InputError
from cupola.models.centernet.head import CenterNet
from cupola.models.centernet.views import in_pairs, predict_pairs
from cupola.models.dense.postprocess import Candidates, suppress
from cupola.models.rcnn.detector import TwoStageDetector
from cupola.models.rcnn.views import (
    AXES,
    View,
    flipped,
    predict_views,
    propose_views,
    takes_views,
    with_masks_of_views,
)
from cupola.models.rpn.detector import RPN
from cupola.runtime.io import image_sources
from cupola.runtime.predictors.detection import DetectionPredictor, Sample, make
from cupola.structures import Detections

MERGING = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}  # without tta_cfg
# Heads of one stage that MMDetection 2.x does not augment, and those of DETR's family.
NOT_IN_2 = ("SetPredictionHead", "YOLOXHead", "GARetinaHead", "SABLRetinaHead")
Joint = Callable[[Any, Sequence[View], tuple[int, int]], Detections]
NO_NMS = {"nms": {"type": "nms", "iou_threshold": 2.0}, "max_per_img": -1}


@dataclass(frozen=True)
class Views:
    """The samples of one image, in the order of the views."""

    samples: tuple[Sample, ...]


@dataclass
class AugmentedPredictor(DetectionPredictor):
    """A detector that sees each image in several sizes and flips.

    `tta` is as `published_views` gives it. Detections of all views are mapped back to the image and
    merged by NMS within a class. Source: mmdet/models/test_time_augs/det_tta.py; with `candidates`
    dense_test_mixins.py of 2.28.2, where the candidates of all views have the model's own NMS. Two
    stages share the proposals of all views then (models/rcnn/views.py), and CenterNet averages
    maps (models/centernet/views.py). Masks of detections are averaged over the views.
    """

    tta: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, image: Any) -> Any:
        """Reads one image once, and resizes, flips and normalizes it for each view."""
        array = image_sources.to_pixels(image, self.max_image_pixels)
        samples = []
        for settings, predictor in self._views():
            seen = predictor.sample(array)
            samples.append(replace(seen, pixels=seen.pixels.flip(AXES[settings.get("flip")])))
        return Views(tuple(samples))

    def bucket(self, sample: Any) -> Hashable:
        """Images of one shape in every view."""
        return tuple(super(AugmentedPredictor, self).bucket(each) for each in sample.samples)

    @torch.inference_mode()
    def run(self, samples: Sequence[Any]) -> list[Detections]:
        joint = _joint(self.model) if self.tta.get("candidates") else None
        if joint is not None:
            found = [joint(self.model, self._seen(each), _size(each)) for each in samples]
            return [replace(each.cpu(), names=self.labels) for each in found]
        found = self._of_views(samples)
        if not self.masks:
            return found
        return [
            with_masks_of_views(self.model, self._seen(sample), each, _size(sample)).cpu()
            for sample, each in zip(samples, found, strict=True)
        ]

    def _seen(self, sample: Any) -> list[View]:
        """The views of one image as the model takes them."""
        views = []
        for (settings, predictor), each in zip(self._views(), sample.samples, strict=True):
            content = (int(each.pixels.shape[1]), int(each.pixels.shape[2]))
            padding = predictor.padding
            size = padding.padded(content) if padding.in_image else content
            factor = (content[1] / each.original[1], content[0] / each.original[0])
            pixels = predictor.padded(each.pixels[None])["pixels"]
            assert pixels is not None
            corner = padding.corner(content) if padding.centered else (0, 0)
            views.append(View(pixels, content, size, factor, settings.get("flip"), corner))
        return views

    def _of_views(self, samples: Sequence[Any]) -> list[Detections]:
        seen: list[list[Detections]] = [[] for _ in samples]
        with self._candidates():
            for number, (settings, predictor) in enumerate(self._views()):
                view = [sample.samples[number] for sample in samples]
                answers = predictor.run(view)
                for found, sample, answer in zip(seen, view, answers, strict=True):
                    found.append(_flipped(answer, settings.get("flip"), sample.original))
        return [self._merged(found) for found in seen]

    def _views(self) -> Iterator[tuple[Mapping[str, Any], DetectionPredictor]]:
        for settings in self.tta["views"]:
            config = {"preprocess": {key: settings.get(key) or {} for key in ("resize", "padding")}}
            made = make(self.name, self.version, self.model, config, self.labels)
            made.device = self.device
            yield settings, made

    def _merged(self, found: list[Detections]) -> Detections:
        own = self.model.bbox_head.test_cfg if self.tta.get("candidates") else self.tta
        settings = {key: own.get(key, default) for key, default in MERGING.items()}
        boxes = torch.cat([each.boxes for each in found])
        scores = torch.cat([each.scores for each in found])
        labels = torch.cat([each.labels for each in found])
        return replace(suppress(Candidates(boxes, scores, labels), settings), names=self.labels)

    @contextmanager
    def _candidates(self) -> Iterator[None]:
        """The model without NMS, if that is what the views are merged from."""
        if not self.tta.get("candidates"):
            yield
            return
        head = self.model.bbox_head
        own = head.test_cfg
        head.test_cfg = {**own, **NO_NMS}
        try:
            yield
        finally:
            head.test_cfg = own


def augmented(predictor: DetectionPredictor) -> AugmentedPredictor:
    """The predictor with the test-time augmentation of its config.

    Without any, the image and its mirror image are merged, as `tools/test.py --tta` does.
    InputError for models that MMDetection does not augment, and for what cannot be reproduced.
    """
    tta = predictor.config.get("tta") or {}
    if "refused" in tta:
        raise InputError(f"{predictor.name}: {tta['refused']}")
    if type(predictor) is not DetectionPredictor:
        raise InputError(f"{predictor.name}: test-time augmentation is for detectors of classes")
    if reason := _refusal(predictor, tta):
        raise InputError(f"{predictor.name}: {reason}")
    if not tta:
        own = predictor.config.get("preprocess", {})
        same = {"resize": own.get("resize", {}), "padding": own.get("padding")}
        tta = {"views": [{**same, "flip": "horizontal"}, {**same, "flip": None}], **MERGING}
    names = [each.name for each in fields(DetectionPredictor) if each.init]
    return AugmentedPredictor(**{name: getattr(predictor, name) for name in names}, tta=tta)


def _joint(model: Any) -> Joint | None:
    """What predicts from all views of an image at once, for the models of 2.x that have it."""
    if takes_views(model):
        return predict_views
    if isinstance(model, RPN) and getattr(model.head, "takes_views", True):
        return propose_views
    return predict_pairs if isinstance(model, CenterNet) else None


def _refusal(predictor: DetectionPredictor, tta: Mapping[str, Any]) -> str | None:
    """Why a detector cannot be augmented, if it cannot."""
    model = predictor.model
    kind, first = type(model).__name__, getattr(model, "rpn_head", None)
    head = first or getattr(model, "bbox_head", None)
    if predictor.masks and not takes_views(model):
        return (
            f"MMDetection has no test-time augmentation of {kind} with masks; it is included for "
            "masks in the boxes of two stages, as of Mask R-CNN, Cascade Mask R-CNN and HTC"
        )
    if not tta.get("candidates"):
        return None
    flips = [each.get("flip") for each in tta["views"]]
    if isinstance(model, CenterNet) and not in_pairs(flips):
        return f"CenterNet averages pairs of an image and its flipped one; got the flips {flips}"
    if _joint(model) is not None:
        return None
    bases = {base.__name__ for base in type(head).__mro__}
    takes = getattr(head, "takes_views", True) and not bases & set(NOT_IN_2)
    if head is None or isinstance(model, TwoStageDetector) or not takes:
        return (
            f"MMDetection 2.x has no test-time augmentation of {kind} with {type(head).__name__}: "
            "remove flip and further scales from its MultiScaleFlipAug, or use a config of 3.x "
            "with a tta_model"
        )
    return None


def _flipped(found: Detections, flip: str | None, size: tuple[int, int]) -> Detections:
    """Detections in a flipped image of (height, width) `size`, in the image itself."""
    return replace(found, boxes=flipped(found.boxes, size, flip), masks=None)


def _size(sample: Any) -> tuple[int, int]:
    """(height, width) of the image that has been read."""
    size: tuple[int, int] = sample.samples[0].original
    return size
