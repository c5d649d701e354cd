"""CameraModel: what the detectors of several cameras share, with and without a state.

Letters: B samples, N cameras.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.detr3d.extraction import extract_maps
from cupola.structures import Detections3D


class CameraModel(nn.Module):
    """Abstract: backbone and neck for every image; subclasses have what looks at all of them.

    A subclass with `stream_inputs` is a model of streams.
    """

    stream_inputs: tuple[str, ...] = ()  # what predict_frame needs besides images and lidar2img
    tracks = False  # whether detections have the numbers of tracks
    data_preprocessor: nn.Module | None

    def extract(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Feature maps [B, N, channels, h_l, w_l] of images [B, N, 3, H, W]."""
        return extract_maps(self, pixels)

    @property
    def is_stream(self) -> bool:
        """Whether the model has a state: initial_state and predict_frame."""
        return bool(self.stream_inputs)

    def pixels_of(self, batch: Mapping[str, Any]) -> Tensor:
        """The images of a batch [B, N, 3, H, W], raw ones normalized by data_preprocessor."""
        if "pixels" in batch:
            pixels: Tensor = batch["pixels"]
            return pixels
        if self.data_preprocessor is None:
            raise ValueError(
                f"the batch holds raw images, and this {type(self).__name__} has no "
                "data_preprocessor; add one to the model, or add `images` with mean and std to "
                "the dataset"
            )
        prepared: Tensor = self.data_preprocessor(batch["raw_images"])
        return prepared

    def initial_state(self, batch: int = 1) -> Any:
        """The state before the first frame of `batch` streams; models of streams have one."""
        raise NotImplementedError

    def predict_frame(self, batch: Mapping[str, Any], state: Any) -> tuple[list[Detections3D], Any]:
        """Detections of the next frame of every stream, and the state after it."""
        raise NotImplementedError

    def predict(self, batch: Mapping[str, Any]) -> list[Detections3D]:
        """Detections of single frames [B, N, ...], or of the last frames of clips."""
        pixels = self.pixels_of(batch)
        state = self.initial_state(len(pixels))
        if pixels.dim() == 5:
            return self.predict_frame(batch, state)[0]
        found: list[Detections3D] = []
        for t in range(pixels.shape[1]):
            one = {key: batch[key][:, t] for key in ("lidar2img", *self.stream_inputs)}
            found, state = self.predict_frame({"pixels": pixels[:, t], **one}, state)
        return found
