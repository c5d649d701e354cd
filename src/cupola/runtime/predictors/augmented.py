"""AugmentedPredictor: detections in several views of an image, merged (test-time augmentation)."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from cupola.errors import InputError
from cupola.models.dense.postprocess import Candidates, suppress
from cupola.runtime.io import image_sources
from cupola.runtime.predictors.detection import DetectionPredictor, Sample, make
from cupola.structures import Detections

MERGING = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}  # without tta_cfg
NO_NMS = {"nms": {"type": "nms", "iou_threshold": 2.0}, "max_per_img": -1}
AXES = {None: (), "horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}  # of pixels [3, h, w]


@dataclass(frozen=True)
class Views:
    """The samples of one image, in the order of the views."""

    samples: tuple[Sample, ...]


@dataclass
class AugmentedPredictor(DetectionPredictor):
    """A detector of boxes that sees each image in several sizes and flips.

    `tta` is as `published_views` gives it. Detections of all views are mapped back to the image and
    merged by NMS within a class. Source: mmdet/models/test_time_augs/det_tta.py; with `candidates`
    dense_test_mixins.py of 2.28.2, where the candidates of all views have the model's own NMS.
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
    InputError for models of masks, and for what cannot be reproduced.
    """
    tta = predictor.config.get("tta") or {}
    if "refused" in tta:
        raise InputError(f"{predictor.name}: {tta['refused']}")
    if predictor.masks or type(predictor) is not DetectionPredictor:
        raise InputError(f"{predictor.name}: test-time augmentation merges boxes of classes alone")
    if tta.get("candidates") and not hasattr(predictor.model, "bbox_head"):
        raise InputError(
            f"{predictor.name}: the test-time augmentation of a MultiScaleFlipAug is included for "
            "detectors of one stage; use a config of MMDetection 3.x with a tta_model"
        )
    if not tta:
        own = predictor.config.get("preprocess", {})
        same = {"resize": own.get("resize", {}), "padding": own.get("padding")}
        tta = {"views": [{**same, "flip": "horizontal"}, {**same, "flip": None}], **MERGING}
    names = [each.name for each in fields(DetectionPredictor) if each.init]
    return AugmentedPredictor(**{name: getattr(predictor, name) for name in names}, tta=tta)


def _flipped(found: Detections, flip: str | None, size: tuple[int, int]) -> Detections:
    """Detections in a flipped image of (height, width) `size`, in the image itself."""
    height, width = size
    left, top, right, bottom = found.boxes.unbind(-1)
    if flip in ("horizontal", "diagonal"):
        left, right = width - right, width - left
    if flip in ("vertical", "diagonal"):
        top, bottom = height - bottom, height - top
    return replace(found, boxes=torch.stack((left, top, right, bottom), -1))
