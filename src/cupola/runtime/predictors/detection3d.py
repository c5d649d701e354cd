"""Detection3DPredictor: the images of calibrated cameras -> boxes in space."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cupola import nn
from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.files.images import read_image, resize
from cupola.runtime.cameras import order_of
from cupola.runtime.export import Program
from cupola.runtime.io.sample_folder import (
    Pixels,
    example_folders,
    read_matrices,
    read_named_sample,
)
from cupola.runtime.parameters import whole_number
from cupola.runtime.predictor import Arrays, Predictor, TensorSpec
from cupola.structures import IMAGENET_MEAN, Detections3D, normalize, pad_to_multiple


@dataclass(frozen=True)
class CameraSample:
    """images [N, H, W, 3] uint8 RGB as the model takes them; lidar2img [N, 4, 4] for these."""

    images: Pixels
    lidar2img: NDArray[np.float32]


@dataclass
class Detection3DPredictor(Predictor):
    """A multi-camera detector with its image size, normalization, labels and threshold.

    `predictor(folder)` or `predictor(images, lidar2img)` -> Detections3D. Images of another
    size are resized and their matrices with them.
    """

    labels: tuple[str, ...] = ()
    size: tuple[int, int] = (900, 1600)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channel_order: str = "rgb"
    divisor: int = 32
    cameras: int = 6
    camera_names: tuple[str, ...] = ()
    threshold: float = 0.3
    folder: Path | None = None

    task: ClassVar[str] = "detection3d"
    max_batch: ClassVar[int] = 4

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("images", "BYTES", (self.cameras,), optional=True, batch_of_one=True),
            TensorSpec(
                "pixels", "UINT8", (self.cameras, -1, -1, 3), optional=True, batch_of_one=True
            ),
            TensorSpec("lidar2img", "FP32", (self.cameras, 4, 4), optional=True, batch_of_one=True),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("boxes", "FP32", (-1, 9)),
            TensorSpec("scores", "FP32", (-1,)),
            TensorSpec("labels", "INT64", (-1,)),
            TensorSpec("names", "BYTES", (-1,)),
            TensorSpec("pixels", "UINT8", (self.cameras, *self.size, 3), optional=True),
            TensorSpec("lidar2img", "FP32", (self.cameras, 4, 4), optional=True),
            TensorSpec("examples", "INT64", (1,), optional=True),
        )

    def __call__(
        self, source: Any, lidar2img: Any = None, threshold: float | None = None
    ) -> Detections3D:
        """Detections around the vehicle, best first; `threshold` is the bundle's by default."""
        if lidar2img is None:
            return self.predict(self.sample(*read_named_sample(Path(source))), threshold)
        images = [np.asarray(image) for image in source]
        return self.predict(self.sample(images, lidar2img), threshold)

    def predict(self, sample: CameraSample, threshold: float | None = None) -> Detections3D:
        """The same for a prepared sample."""
        return self.run([sample])[0].above(self.threshold if threshold is None else threshold)

    def sample(
        self, images: Sequence[Pixels], lidar2img: Any, names: Sequence[str] = ()
    ) -> CameraSample:
        """Checks, resizes and stacks the images of one moment.

        With the `names` of the cameras, these are brought into the model's order.
        """
        matrices = read_matrices(lidar2img, self.cameras)
        if len(images) != self.cameras:
            raise InputError(f"expected {self.cameras} images, one per camera, got {len(images)}")
        order = order_of(names, self.camera_names, self.cameras)
        images, matrices = [images[at] for at in order], matrices[order]
        height, width = self.size
        resized = []
        for number, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise InputError(
                    f"camera {number}: expected an image [H, W, 3] of uint8, got "
                    f"{image.dtype} {list(image.shape)}"
                )
            if 0 in image.shape:
                raise InputError(f"camera {number}: the image is empty")
            scale = [width / image.shape[1], height / image.shape[0], 1.0, 1.0]
            matrices[number] *= np.array(scale, np.float32)[:, None]
            resized.append(resize(image, self.size))
        return CameraSample(np.stack(resized), matrices)

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
        """One sample: `images` (files' bytes) or `pixels` [N, H, W, 3], and `lidar2img`.

        The parameter `example` (0, 1, ...) selects one of the bundle's samples instead.
        """
        if "example" in parameters:
            if tensors:
                raise InputError("send either tensors or the parameter `example`, not both")
            return [self.example(parameters)]
        if ("images" in tensors) == ("pixels" in tensors):
            raise InputError("send either `images` (BYTES: JPEG, PNG, ...) or `pixels` (UINT8)")
        if "lidar2img" not in tensors:
            raise InputError("lidar2img is missing: one 4 x 4 matrix per camera, meters -> pixels")
        if "pixels" in tensors:
            pixels = np.asarray(tensors["pixels"])
            images = list(pixels[0] if pixels.ndim == 5 and len(pixels) == 1 else pixels)
        else:
            files = np.asarray(tensors["images"], dtype=object).reshape(-1)
            images = [
                read_image(bytes(f), f"camera {i}", max_pixels=self.max_image_pixels)
                for i, f in enumerate(files)
            ]
        return [self.sample(images, tensors["lidar2img"])]

    def example(self, parameters: Mapping[str, Any]) -> CameraSample:
        """The bundle's sample number `example`; InputError if there is none."""
        folders = example_folders(self.folder)
        if not folders:
            raise InputError(f"send images and lidar2img: {self.name} has no examples")
        number = whole_number(parameters, "example", 0, 0, len(folders) - 1)
        return self.sample(*read_named_sample(folders[number]))

    def bucket(self, sample: CameraSample) -> Hashable:
        return sample.images.shape

    @torch.inference_mode()
    def run(self, samples: Sequence[CameraSample]) -> list[Detections3D]:
        batch = self.batch(samples)
        return [
            Detections3D(found.boxes, found.scores, found.labels, self.labels, found.queries)
            for found in self.model.predict(batch)
        ]

    def batch(self, samples: Sequence[CameraSample]) -> dict[str, Any]:
        """What the model's forward and predict take."""
        images = torch.from_numpy(np.stack([sample.images for sample in samples]))
        pixels = self.normalize(images.permute(0, 1, 4, 2, 3))  # [B, N, 3, H, W]
        matrices = torch.from_numpy(np.stack([sample.lidar2img for sample in samples]))
        size = (pixels.shape[-2], pixels.shape[-1])
        return {"pixels": pixels, "lidar2img": matrices, "image_size": size}

    def normalize(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] RGB 0..255 -> normalized, zero-padded to multiples of the divisor."""
        if self.channel_order == "bgr":
            images = images.flip(-3)
        return pad_to_multiple(normalize(images, self.mean, self.std), self.divisor)

    def encode(self, predictions: Sequence[Detections3D], parameters: Mapping[str, Any]) -> Arrays:
        """The tensors of one request's sample, above the threshold.

        With the parameter `return_images`, the images and matrices of an example are included, and
        the number of examples.
        """
        threshold = float(parameters.get("threshold", self.threshold))
        (found,) = (each.above(threshold) for each in predictions)
        names = [found.name(label).encode() for label in found.labels.tolist()]
        arrays = {
            "boxes": found.boxes.float().numpy(),
            "scores": found.scores.float().numpy(),
            "labels": found.labels.numpy(),
            "names": np.array(names, dtype=object),
        }
        if parameters.get("return_images") and "example" in parameters:
            sample = self.example(parameters)
            count = np.array([len(example_folders(self.folder))])
            arrays |= {"pixels": sample.images, "lidar2img": sample.lidar2img, "examples": count}
        return arrays


def from_bundle(bundle: Bundle, model: Any) -> Detection3DPredictor:
    """The predictor of a detection3d bundle."""
    pre, post = bundle.config.get("preprocess", {}), bundle.config.get("postprocess", {})
    keys = ("mean", "std", "channel_order", "divisor", "cameras")
    settings = {key: pre[key] for key in keys if key in pre}
    settings["camera_names"] = tuple(pre.get("camera_names", ()))
    return Detection3DPredictor(
        bundle.name,
        bundle.version,
        model,
        bundle.config,
        labels=bundle.labels,
        size=(int(pre["size"][0]), int(pre["size"][1])),
        threshold=post.get("threshold", 0.3),
        folder=bundle.path,
        **settings,
    )


class LastLayer(torch.nn.Module):
    """pixels [B, N, 3, H, W], lidar2img [B, N, 4, 4] -> logits [B, Q, C], codes [B, Q, 10]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, lidar2img: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(pixels, lidar2img, (pixels.shape[-2], pixels.shape[-1]))
        return output.logits[-1], output.boxes[-1]


def program(predictor: Detection3DPredictor, size: tuple[int, int] | None) -> Program:
    """What an export writes; `size` is (height, width), by default the predictor's."""
    height, width = (-(-s // predictor.divisor) * predictor.divisor for s in size or predictor.size)
    cameras = predictor.cameras
    example = (torch.zeros(2, cameras, 3, height, width), torch.eye(4).repeat(2, cameras, 1, 1))
    return Program(
        LastLayer(nn.to_torch(predictor.model)),
        example,
        ("pixels", "lidar2img"),
        ("logits", "boxes"),
        ({0: "batch", 3: "height", 4: "width"}, {0: "batch"}),
    )
