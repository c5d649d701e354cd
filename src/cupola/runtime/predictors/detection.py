"""DetectionPredictor: images -> boxes, and masks where the model has them."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.files.images import resize
from cupola.runtime.devices import CPU, moved
from cupola.runtime.io import image_sources
from cupola.runtime.parameters import score
from cupola.runtime.predictor import Arrays, Predictor, TensorSpec
from cupola.runtime.predictors.padding import Padding
from cupola.structures import Detections
from cupola.structures.images import fit_size, fit_size_down, fit_within
from cupola.structures.masks import encode_rle

# JSON each: the RLE of a detection's mask; a segment of a panoptic segmentation with its RLE.
MASK_OUTPUTS = (TensorSpec("masks", "BYTES", (-1,)), TensorSpec("segments", "BYTES", (-1,)))


# What torch says where a feature map is smaller than a kernel.
TOO_SMALL = (
    "Output size is too small",
    "Kernel size can't be greater than actual input size",
    "Padding size should be less than the corresponding input dimension",  # DetectoRS
)


MOST_NAMES = 100  # of classes that a server tells its pages


@dataclass(frozen=True)
class Sample:
    """An image as the model takes it: pixels [3, h, w], normalized, and its original (H, W)."""

    pixels: Tensor
    original: tuple[int, int]


@dataclass
class DetectionPredictor(Predictor):
    """A detector with its resizing, labels and threshold.

    Images are resized to `exact` (height, width) if it is set, for models trained on one shape,
    and otherwise by `short` and `long`, or to fit into `within` (height, width), which keep the
    aspect ratio. `rounding` "transformers" rounds sizes as that library does, "down" as
    FixScaleResize, and `resample` is the filter's name in Pillow, or "opencv" for its bilinear one,
    before which pixels become those of `dtype`, uint8 or float32. Then an image is padded as
    `padding` says, or with zeros to `pad` (height, width) if it is set. `device` is where the model
    computes; results are on the CPU.

    `predictor(image)` -> Detections, `predictor([image, ...])` -> a list of them; an image is a
    path, the bytes of a file, an open file, a PIL image, or an array or tensor.
    """

    labels: tuple[str, ...] = ()
    short: int | None = 800
    long: int | None = 1333
    exact: tuple[int, int] | None = None
    within: tuple[int, int] | None = None
    rounding: str = "mmcv"
    resample: str = "bilinear"
    dtype: str = "uint8"
    pad: tuple[int, int] | None = None
    padding: Padding = field(default_factory=Padding)
    threshold: float = 0.5
    device: torch.device = CPU

    task: ClassVar[str] = "detection"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("image", "BYTES", (-1,), optional=True),
            TensorSpec("pixels", "UINT8", (-1, -1, -1, 3), optional=True),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("boxes", "FP32", (-1, 4)),
            TensorSpec("scores", "FP32", (-1,)),
            TensorSpec("labels", "INT64", (-1,)),
            TensorSpec("names", "BYTES", (-1,)),
            TensorSpec("image_index", "INT64", (-1,)),
            *(MASK_OUTPUTS if self.masks else ()),
        )

    @property
    def details(self) -> Mapping[str, Any]:
        """The threshold that applies where a request has none, and the names of few classes."""
        few = {"labels": list(self.labels)} if len(self.labels) <= MOST_NAMES else {}
        return {"threshold": self.threshold, **few}

    @property
    def masks(self) -> bool:
        """Whether the model segments images."""
        return bool(getattr(self.model, "predicts_masks", False))

    def __call__(self, image: Any, threshold: float | None = None) -> Any:
        """Detections in one image, best first, or a list of them for several images.

        See `to_pixels` for what an image may be; several are a list, a generator, or an array or
        tensor [N, H, W, C]. Images of equal size run in batches. `threshold` is the bundle's by
        default. InputError names what cannot be read.
        """
        least = score(self.threshold if threshold is None else threshold)
        if image_sources.is_one(image):
            return self._answers([image_sources.reader(image, self.max_image_pixels)])[0].above(
                least
            )
        readers = image_sources.readers(image, self.max_image_pixels)
        return [found.above(least) for found in self._answers(readers)]

    def _answers(self, readers: Iterable[image_sources.Reader]) -> list[Detections]:
        """Detections of every image, in order; the pixels of a few batches are held at a time."""
        kept: list[image_sources.Reader] = []
        waiting: dict[Hashable, list[tuple[int, Sample]]] = {}
        found: dict[int, Detections] = {}

        def run(batch: list[tuple[int, Sample]]) -> None:
            answers = self.run([sample for _, sample in batch])
            for (index, _), answer in zip(batch, answers, strict=True):
                found[index] = replace(answer, image=kept[index])

        for index, read in enumerate(readers):
            kept.append(read)
            sample = self.numbered(index, read())
            same = waiting.setdefault(self.bucket(sample), [])
            same.append((index, sample))
            if len(same) == self.max_batch or sum(map(len, waiting.values())) > 4 * self.max_batch:
                key = max(waiting, key=lambda each: len(waiting[each]))
                run(waiting.pop(key))
        for batch in waiting.values():
            run(batch)
        return [found[index] for index in range(len(found))]

    def sample(self, image: Any) -> Sample:
        """Reads, resizes and normalizes one image."""
        array = image_sources.to_pixels(image, self.max_image_pixels)
        original = (int(array.shape[0]), int(array.shape[1]))
        kept = array.astype(self.dtype, copy=False)
        smaller = resize(kept, self.input_size(original), self.resample)
        pixels = moved(torch.from_numpy(smaller.copy()), self.device).permute(2, 0, 1)  # [3, h, w]
        return Sample(self.model.data_preprocessor.normalize(pixels), original)

    def numbered(self, number: int, image: Any) -> Sample:
        """The sample of image `number` of a call or a request."""
        return self.sample(image)

    def sample_at(self, image: Any, index: int, path: Path | None) -> Sample:
        """The sample of image `index` of a data set, whose file is at `path` if it is known."""
        return self.sample(image)

    def input_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of that size is resized to."""
        if self.exact is not None:
            return self.exact
        if self.within is not None:
            return fit_within(original, self.within)
        if self.rounding == "transformers" and self.short is not None:
            return fit_size_down(original, self.short, self.long)
        half = 0.0 if self.rounding == "down" else 0.5
        return fit_size(original, self.short, self.long, half)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that a resized image is padded to."""
        size = self.padding.padded(size)
        divisor = getattr(self.model.data_preprocessor, "pad_size_divisor", 1)
        height, width = (-(-side // divisor) * divisor for side in size)
        return self.pad or (height, width)

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Sample]:
        """One sample per element of `image` (files' bytes) or of `pixels` [N, H, W, 3]."""
        if ("image" in tensors) == ("pixels" in tensors):
            raise InputError("send either `image` (BYTES: JPEG, PNG, ...) or `pixels` (UINT8)")
        if "pixels" in tensors:
            arrays = np.asarray(tensors["pixels"])
            images = list(arrays if arrays.ndim == 4 else arrays[None])
        else:
            images = list(map(bytes, np.asarray(tensors["image"], dtype=object).reshape(-1)))
        return [self.numbered(number, image) for number, image in enumerate(images)]

    def bucket(self, sample: Sample) -> Hashable:
        return tuple(sample.pixels.shape)

    @torch.inference_mode()
    def run(self, samples: Sequence[Sample]) -> list[Detections]:
        images = [sample.pixels for sample in samples]
        if len({tuple(image.shape) for image in images}) > 1:
            return [found for sample in samples for found in self.run([sample])]
        sizes = [(int(p.shape[1]), int(p.shape[2])) for p in images]
        factors = [
            (w / sample.original[1], h / sample.original[0])
            for sample, (h, w) in zip(samples, sizes, strict=True)
        ]
        size = self.padding.padded(sizes[0])
        batch = {
            **self.padded(torch.stack(images)),
            "image_sizes": [size] * len(sizes) if self.padding.in_image else sizes,
            "scale_factors": factors,
            "original_sizes": [sample.original for sample in samples],
            "corner": self.padding.corner(sizes[0]),
            **self.further(samples),
        }
        predictions = self._predicted(batch, sizes[0])
        found = [replace(each.cpu(), names=each.names or self.labels) for each in predictions]
        if not self.padding.centered:
            return found
        top, left = self.padding.corner(sizes[0])
        return [
            _moved(each, left / x, top / y) for each, (x, y) in zip(found, factors, strict=True)
        ]

    def _predicted(self, batch: Mapping[str, Any], size: tuple[int, int]) -> list[Detections]:
        try:
            predictions: list[Detections] = self.model.predict(batch)
        except RuntimeError as error:
            if any(text in str(error) for text in TOO_SMALL):
                raise InputError(
                    f"an image of {size[0]} x {size[1]} pixels, after resizing, is too small for "
                    f"the feature maps of {self.name}; use a larger or less elongated one"
                ) from error
            raise
        return predictions

    def further(self, samples: Sequence[Any]) -> dict[str, Any]:
        """What the model's batch holds besides images."""
        return {}

    def padded(self, pixels: Tensor) -> dict[str, Tensor | None]:
        """Images [B, 3, h, w] of one size, padded, and the mask of their padding."""
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        height, width = self.padded_size(size)
        if size == (height, width):
            return {"pixels": pixels, "padding_mask": None}
        if size[0] > height or size[1] > width:
            raise InputError(
                f"an image of {size[0]} x {size[1]} pixels does not fit into the {height} x {width}"
                f" that {self.name} pads to"
            )
        if self.padding.value is not None:
            pixels = self._framed(pixels, size)
        h, w = pixels.shape[2:] if self.padding.in_image else size
        mask = torch.ones(len(pixels), height, width, dtype=torch.bool, device=pixels.device)
        mask[:, :h, :w] = False
        bottom, right = height - pixels.shape[2], width - pixels.shape[3]
        return {"pixels": F.pad(pixels, (0, right, 0, bottom)), "padding_mask": mask}

    def _framed(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Images [B, 3, h, w] in their padding, whose value is normalized as theirs."""
        assert self.padding.value is not None
        height, width = self.padding.padded(size)
        value = torch.tensor(self.padding.value, device=pixels.device).view(3, 1, 1)
        filled = self.model.data_preprocessor.normalize(value).expand(len(pixels), 3, height, width)
        top, left = self.padding.place(size)
        framed = filled.clone()
        framed[:, :, top : top + size[0], left : left + size[1]] = pixels
        return framed

    def encode(self, predictions: Sequence[Detections], parameters: Mapping[str, Any]) -> Arrays:
        """The tensors of all images, concatenated; `image_index` gives the image of each box."""
        threshold = score(parameters.get("threshold", self.threshold))
        kept = [found.above(threshold) for found in predictions]
        index = [np.full(len(found), i, dtype=np.int64) for i, found in enumerate(kept)]
        names = [found.name(label) for found in kept for label in found.labels.tolist()]
        arrays = {
            "boxes": torch.cat([found.boxes for found in kept]).float().numpy(),
            "scores": torch.cat([found.scores for found in kept]).float().numpy(),
            "labels": torch.cat([found.labels for found in kept]).numpy(),
            "names": np.array([name.encode() for name in names], dtype=object),
            "image_index": np.concatenate(index),
        }
        return {**arrays, **_masks(kept)} if self.masks else arrays


def _masks(images: Sequence[Detections]) -> Arrays:
    """The masks of all detections, and the segments of all panoptic segmentations, as JSON."""
    masks = [
        json.dumps(encode_rle(mask)).encode()
        for found in images
        if found.masks is not None
        for mask in found.masks
    ]
    segments = []
    for index, found in enumerate(images):
        if found.panoptic is None:
            continue
        for segment, mask in zip(found.panoptic.segments, found.panoptic.masks(), strict=True):
            about = {"image": index, **segment._asdict(), "name": found.name(segment.label)}
            segments.append(json.dumps({**about, "mask": encode_rle(mask)}).encode())
    return {
        "masks": np.array(masks, dtype=object),
        "segments": np.array(segments, dtype=object),
    }


def _moved(found: Detections, left: float, top: float) -> Detections:
    """Detections in pixels of a padded image, in those of the image that begins at (left, top)."""
    return replace(found, boxes=found.boxes - found.boxes.new_tensor([left, top, left, top]))


def from_bundle(bundle: Bundle, model: Any) -> DetectionPredictor:
    """The predictor of a detection bundle."""
    return make(bundle.name, bundle.version, model, bundle.config, bundle.labels)


def make(
    name: str,
    version: str,
    model: Any,
    config: Mapping[str, Any],
    labels: tuple[str, ...],
    kind: type[DetectionPredictor] = DetectionPredictor,
) -> DetectionPredictor:
    """A predictor with the resizing and threshold of its config."""
    preprocess = config.get("preprocess", {})
    resizing = preprocess.get("resize", {"short": 800, "long": 1333})
    return kind(
        name,
        version,
        model,
        config,
        labels=labels,
        short=resizing.get("short"),
        long=resizing.get("long"),
        exact=_pair(resizing.get("exact")),
        within=_pair(resizing.get("within")),
        rounding=resizing.get("rounding", "mmcv"),
        resample=resizing.get("resample", "bilinear"),
        dtype=resizing.get("dtype", "uint8"),
        pad=_pair(preprocess.get("pad")),
        padding=Padding.from_config(preprocess.get("padding")),
        threshold=config.get("postprocess", {}).get("threshold", 0.5),
    )


def _pair(value: Sequence[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
