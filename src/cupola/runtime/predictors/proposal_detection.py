"""ProposalDetectionPredictor: images and boxes that may hold objects -> detections (Fast R-CNN)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.files.proposals import Boxes, Proposals, checked_boxes
from cupola.runtime.io import image_sources
from cupola.runtime.predictor import TensorSpec
from cupola.runtime.predictors.detection import DetectionPredictor, Sample, make

MOST = 20_000  # proposals of one image


@dataclass(frozen=True)
class ProposalSample(Sample):
    """A Sample, and its proposals [R, 4], xyxy in pixels of the resized image."""

    proposals: Tensor


@dataclass
class ProposalDetectionPredictor(DetectionPredictor):
    """A detector without an RPN: it scores the proposals that come with an image.

    `predictor(image, proposals=boxes)` -> Detections; boxes are [R, 4] xyxy in pixels of the image,
    a list of them for several images. `proposals` is a file of them, which knows images by their
    number or name, for `sample_at`.
    """

    proposals: Proposals | None = None
    given: tuple[Boxes, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (*super().inputs, TensorSpec("proposals", "FP32", (-1, -1, 4)))

    def __call__(self, image: Any, threshold: float | None = None, proposals: Any = None) -> Any:
        """As DetectionPredictor, with the proposals of each image."""
        if proposals is not None:
            one = image_sources.is_one(image)
            return replace(self, given=self._checked([proposals] if one else proposals))(
                image, threshold
            )
        return super().__call__(image, threshold)

    def sample(self, image: Any) -> Sample:
        """Reads, resizes and normalizes one image, which has the first of the given proposals."""
        return self.numbered(0, image)

    def numbered(self, number: int, image: Any) -> Sample:
        """The sample of image `number`, with its proposals."""
        if number >= len(self.given):
            raise self._missing()
        return self._with(super().sample(image), self.given[number])

    def sample_at(self, image: Any, index: int, path: Path | None) -> Sample:
        """The sample of an image of a data set, with the proposals of the file."""
        if self.proposals is None:
            return self.sample(image)
        found = replace(self, given=(self.proposals.find(path, index),))
        return found.sample(image)

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Sample]:
        """One sample per image; `proposals` is [N, R, 4], or [R, 4] of one image.

        Rows of four zeros fill up where images have fewer.
        """
        if "proposals" not in tensors:
            raise self._missing()
        images = {key: value for key, value in tensors.items() if key != "proposals"}
        boxes = np.asarray(tensors["proposals"], np.float32)
        rows = [boxes] if boxes.ndim == 2 else list(boxes)
        given = self._checked([each[(each != 0).any(-1)] for each in rows])
        samples = super(ProposalDetectionPredictor, replace(self, given=given)).decode(images, {})
        if len(samples) != len(given):
            raise InputError(f"proposals: for {len(given)} images; {len(samples)} were sent")
        return samples

    def further(self, samples: Sequence[Any]) -> dict[str, Any]:
        return {"proposals": [sample.proposals for sample in samples]}

    def _with(self, sample: Sample, given: Boxes) -> ProposalSample:
        height, width = (int(side) for side in sample.pixels.shape[1:])
        factors = [width / sample.original[1], height / sample.original[0]] * 2
        boxes = torch.from_numpy(given) * torch.tensor(factors)
        limits = torch.tensor([width, height, width, height]).float()
        boxes = torch.minimum(boxes.clamp(min=0), limits).to(sample.pixels.device)
        return ProposalSample(sample.pixels, sample.original, boxes)

    def _checked(self, proposals: Any) -> tuple[Boxes, ...]:
        found = []
        for number, each in enumerate(proposals):
            array = each.detach().cpu().numpy() if isinstance(each, Tensor) else each
            found.append(checked_boxes(array, f"proposals[{number}]", InputError))
            if len(found[-1]) > MOST:
                raise InputError(f"proposals[{number}]: {len(found[-1])} are more than {MOST}")
        return tuple(found)

    def _missing(self) -> InputError:
        return InputError(
            f"{self.name} has no RPN and scores proposals: give each image boxes as `proposals` "
            "([R, 4], left, top, right, bottom, in pixels), --proposals FILE, or use a Faster R-CNN"
        )


def from_bundle(bundle: Bundle, model: Any) -> DetectionPredictor:
    """The predictor of a bundle whose model needs proposals."""
    about = (bundle.name, bundle.version, model, bundle.config, bundle.labels)
    return make(*about, ProposalDetectionPredictor)
