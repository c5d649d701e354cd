"""Detection3DPredictor: the images of calibrated cameras -> boxes in space."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.files.images import read_image, resize
from cupola.runtime.cameras import order_of
from cupola.runtime.devices import CPU, moved
from cupola.runtime.io.sample_folder import (
    Pixels,
    example_folders,
    read_can_bus,
    read_matrices,
    read_moment,
    read_pose,
    read_timestamp,
)
from cupola.runtime.parameters import score, whole_number
from cupola.runtime.predictor import Arrays, Predictor, TensorSpec
from cupola.runtime.predictors.camera_stream import (
    CameraStream,
    FrameState,
    check_follows,
    relative,
)
from cupola.structures import IMAGENET_MEAN, Detections3D, normalize, pad_to_multiple
from cupola.structures.can_bus import CAN_BUS, can_bus_of_lidar
from cupola.structures.projections import split_projections

EGO_POSE = TensorSpec("ego_pose", "FP64", (4, 4), optional=True, batch_of_one=True)
TIMESTAMP = TensorSpec("timestamp", "FP64", (1,), optional=True)
TRACKS = TensorSpec("tracks", "INT64", (-1,))
MOTION = TensorSpec("can_bus", "FP64", (CAN_BUS,), optional=True, batch_of_one=True)


@dataclass(frozen=True)
class CameraSample:
    """images [N, H, W, 3] uint8 RGB as the model takes them; lidar2img [N, 4, 4] for these.

    Where the vehicle was, for models of streams: ego_pose [4, 4], lidar to a frame that does not
    move, and timestamp in seconds; can_bus [18] as BEVFormer takes it, see structures/can_bus.py.
    """

    images: Pixels
    lidar2img: NDArray[np.float32]
    ego_pose: NDArray[np.float64] | None = None
    timestamp: float | None = None
    can_bus: NDArray[np.float64] | None = None


@dataclass
class Detection3DPredictor(Predictor):
    """A multi-camera detector with its image size, normalization, labels and threshold.

    `predictor(folder)` or `predictor(images, lidar2img)` -> Detections3D. Images of another
    size are resized and their matrices with them; with `fit` "cover" they keep their proportions,
    and what is too much is cut off at the top and equally at both sides.

    A model of streams also gets ego_pose and timestamp, and BEVFormer can_bus or ego_pose. Calls
    of the predictor are the first frame of a stream each; `stream = predictor.new_stream()` makes
    what is called frame after frame.
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
    fit: str = "stretch"
    folder: Path | None = None
    device: torch.device = CPU

    task: ClassVar[str] = "detection3d"
    max_batch: ClassVar[int] = 4

    @property
    def is_stream(self) -> bool:
        return bool(getattr(self.model, "is_stream", False))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            *self._images,
            *((EGO_POSE, TIMESTAMP) if self.is_stream else ()),
            *((MOTION,) if self.takes_can_bus else ()),
        )

    @property
    def takes_can_bus(self) -> bool:
        """Whether the model needs can_bus, the vehicle's pose and motion."""
        return "can_bus" in getattr(self.model, "stream_inputs", ())

    @property
    def _images(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("images", "BYTES", (self.cameras,), optional=True, batch_of_one=True),
            TensorSpec(
                "pixels", "UINT8", (self.cameras, -1, -1, 3), optional=True, batch_of_one=True
            ),
            TensorSpec("lidar2img", "FP32", (self.cameras, 4, 4), optional=True, batch_of_one=True),
            TensorSpec("camera_names", "BYTES", (self.cameras,), optional=True, batch_of_one=True),
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
            *((EGO_POSE, TIMESTAMP) if self.is_stream else ()),
            *((TRACKS,) if getattr(self.model, "tracks", False) else ()),
        )

    def __call__(
        self, source: Any, lidar2img: Any = None, threshold: float | None = None
    ) -> Detections3D:
        """Detections around the vehicle, best first; `threshold` is the bundle's by default."""
        return self.predict(self.sample_of(source, lidar2img), threshold)

    def sample_of(self, source: Any, lidar2img: Any, **moment: Any) -> CameraSample:
        if lidar2img is None:
            return self.sample(*read_moment(Path(source)))
        return self.sample([np.asarray(image) for image in source], lidar2img, **moment)

    def new_stream(self) -> CameraStream:
        """The state of a new stream; InputError if the model has none."""
        if not self.is_stream:
            raise InputError(f"{self.name} is not a model of streams: each sample stands alone")
        return CameraStream(self)

    def predict(self, sample: CameraSample, threshold: float | None = None) -> Detections3D:
        """The same for a prepared sample."""
        least = score(self.threshold if threshold is None else threshold)
        return self.run([sample])[0].above(least)

    def sample(
        self,
        images: Sequence[Pixels],
        lidar2img: Any,
        names: Sequence[str] = (),
        ego_pose: Any = None,
        timestamp: Any = None,
        can_bus: Any = None,
    ) -> CameraSample:
        """Checks, resizes and stacks the images of one moment.

        With the `names` of the cameras, these are brought into the model's order.
        """
        matrices = read_matrices(lidar2img, self.cameras)
        if len(images) != self.cameras:
            raise InputError(f"expected {self.cameras} images, one per camera, got {len(images)}")
        order = order_of(names, self.camera_names, self.cameras)
        images, matrices = [images[at] for at in order], matrices[order]
        resized = []
        for number, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise InputError(
                    f"camera {number}: expected an image [H, W, 3] of uint8, got "
                    f"{image.dtype} {list(image.shape)}"
                )
            if 0 in image.shape:
                raise InputError(f"camera {number}: the image is empty")
            pixels, matrices[number] = self._fitted(image, matrices[number])
            resized.append(pixels)
        return CameraSample(
            np.stack(resized),
            matrices,
            None if ego_pose is None else read_pose(ego_pose),
            None if timestamp is None else read_timestamp(timestamp),
            None if can_bus is None else read_can_bus(can_bus),
        )

    def _fitted(
        self, image: Pixels, matrix: NDArray[np.float32]
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """The image in the model's size, and its matrix [4, 4]."""
        height, width = self.size
        if self.fit == "stretch":
            scale = [width / image.shape[1], height / image.shape[0], 1.0, 1.0]
            return resize(image, self.size), matrix * np.array(scale, np.float32)[:, None]
        ratio = max(width / image.shape[1], height / image.shape[0])
        grown = max(int(image.shape[0] * ratio), height), max(int(image.shape[1] * ratio), width)
        top, left = grown[0] - height, (grown[1] - width) // 2
        cut = resize(image, grown)[top : top + height, left : left + width]
        change = np.diag([ratio, ratio, 1.0, 1.0])
        change[:2, 2] = -left, -top
        return np.ascontiguousarray(cut), (change @ matrix).astype(np.float32)

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
        """One sample: `images` (files' bytes) or `pixels` [N, H, W, 3], and `lidar2img`.

        With `camera_names` [N], these may be in any order.

        The parameter `example` (0, 1, ...) selects one of the bundle's samples instead.
        """
        score(parameters.get("threshold", self.threshold))  # before a stream's state changes
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
        motion = (tensors.get(name) for name in ("ego_pose", "timestamp", "can_bus"))
        given = np.asarray(tensors.get("camera_names", ()), dtype=object).reshape(-1)
        names = [bytes(name).decode("utf-8", "replace") for name in given]
        return [self.sample(images, tensors["lidar2img"], names, *motion)]

    def example(self, parameters: Mapping[str, Any]) -> CameraSample:
        """The bundle's sample number `example`; InputError if there is none."""
        folders = example_folders(self.folder)
        if not folders:
            raise InputError(f"send images and lidar2img: {self.name} has no examples")
        number = whole_number(parameters, "example", 0, 0, len(folders) - 1)
        return self.sample(*read_moment(folders[number]))

    def bucket(self, sample: CameraSample) -> Hashable:
        return sample.images.shape

    @torch.inference_mode()
    def run(self, samples: Sequence[CameraSample]) -> list[Detections3D]:
        return [self._named(found) for found in self.model.predict(self.batch(samples))]

    def _named(self, found: Detections3D) -> Detections3D:
        return replace(found.cpu(), names=self.labels)

    @torch.inference_mode()
    def run_frame(self, sample: CameraSample, state: Any) -> tuple[Detections3D, Any]:
        """The next frame of a stream, whose state is None at its start -> and the state after it.

        InputError without ego_pose and timestamp, or for BEVFormer without can_bus and ego_pose,
        for a frame that is not after the last one, and for one with another kind of motion.
        """
        self._check_motion(sample)
        earlier = self._first(sample) if state is None else state
        check_follows(sample, earlier)
        if not self.takes_can_bus:
            sample = relative(sample, earlier.origin)
        (found,), after = self.model.predict_frame(self.batch([sample]), earlier.model)
        return self._named(found), earlier._replace(model=after, timestamp=sample.timestamp)

    def _check_motion(self, sample: CameraSample) -> None:
        """InputError for a frame without what the model's state needs."""
        missing = [name for name in ("ego_pose", "timestamp") if getattr(sample, name) is None]
        if self.takes_can_bus:
            known = sample.can_bus is not None or sample.ego_pose is not None
            missing = [] if known else ["can_bus (or ego_pose)"]
        if missing:
            raise InputError(f"a frame of a stream needs {' and '.join(missing)}")

    def _first(self, sample: CameraSample) -> FrameState:
        """What a stream that begins with this frame has before it."""
        origin = None if sample.ego_pose is None else sample.ego_pose[:3, 3].copy()
        measured = (sample.can_bus is not None) if self.takes_can_bus else None
        return FrameState(self.model.initial_state(1), None, origin, measured)

    def batch(self, samples: Sequence[CameraSample]) -> dict[str, Any]:
        """What the model's forward and predict take."""
        images = self._put([sample.images for sample in samples])
        pixels = self.normalize(images.permute(0, 1, 4, 2, 3))  # [B, N, 3, H, W]
        matrices = self._put([sample.lidar2img for sample in samples])
        size = (pixels.shape[-2], pixels.shape[-1])
        batch = {"pixels": pixels, "lidar2img": matrices, "image_size": size}
        if hasattr(self.model, "is_stream"):  # a model that masks the padding
            batch["valid_size"] = tuple(samples[0].images.shape[1:3])
        return batch | self._motion(samples) if self.is_stream else batch

    def _motion(self, samples: Sequence[CameraSample]) -> dict[str, Tensor]:
        """What models of streams need; a sample without a pose is at rest at time 0."""
        still = np.eye(4)
        poses = [still if each.ego_pose is None else each.ego_pose for each in samples]
        if self.takes_can_bus:
            measured = [
                can_bus_of_lidar(pose) if each.can_bus is None else each.can_bus
                for each, pose in zip(samples, poses, strict=True)
            ]
            return {"can_bus": torch.from_numpy(np.stack(measured))}
        cameras = [split_projections(each.lidar2img.astype(np.float64)) for each in samples]
        return {
            "ego_pose": self._put(poses),
            "timestamp": self._put([np.float64(each.timestamp or 0.0) for each in samples]),
            "intrinsics": self._put([inner for inner, _ in cameras]),
            "extrinsics": self._put([outer for _, outer in cameras]),
        }

    def _put(self, arrays: Sequence[Any]) -> Tensor:
        """Arrays of one shape, stacked, on the model's device."""
        return moved(torch.from_numpy(np.stack(arrays)), self.device)

    def normalize(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] RGB 0..255 -> normalized, zero-padded to multiples of the divisor."""
        if self.channel_order == "bgr":
            images = images.flip(-3)
        return pad_to_multiple(normalize(images, self.mean, self.std), self.divisor)

    def encode(self, predictions: Sequence[Detections3D], parameters: Mapping[str, Any]) -> Arrays:
        """The tensors of one request's sample, above the threshold.

        With the parameter `return_images`, the images and matrices of an example are included, for
        a model of streams where and when it was taken, and the number of examples.
        """
        threshold = score(parameters.get("threshold", self.threshold))
        (found,) = (each.above(threshold) for each in predictions)
        names = [found.name(label).encode() for label in found.labels.tolist()]
        arrays = {
            "boxes": found.boxes.float().numpy(),
            "scores": found.scores.float().numpy(),
            "labels": found.labels.numpy(),
            "names": np.array(names, dtype=object),
        }
        if found.tracks is not None:
            arrays["tracks"] = found.tracks.numpy()
        if parameters.get("return_images") and "example" in parameters:
            sample = self.example(parameters)
            count = np.array([len(example_folders(self.folder))])
            arrays |= {"pixels": sample.images, "lidar2img": sample.lidar2img, "examples": count}
            if self.is_stream and sample.ego_pose is not None and sample.timestamp is not None:
                arrays |= {"ego_pose": sample.ego_pose, "timestamp": np.array([sample.timestamp])}
        return arrays


def from_bundle(bundle: Bundle, model: Any) -> Detection3DPredictor:
    """The predictor of a detection3d bundle."""
    pre, post = bundle.config.get("preprocess", {}), bundle.config.get("postprocess", {})
    keys = ("mean", "std", "channel_order", "divisor", "cameras", "fit")
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
