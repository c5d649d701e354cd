"""CameraStream: the state of one stream of a multi-camera model."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cupola.errors import InputError
from cupola.runtime.parameters import score
from cupola.structures import Detections3D


class FrameState(NamedTuple):
    """What a stream keeps between two frames: the model's state, and when the last one was.

    origin: [3], where the stream began. Models that keep float32 poses get them relative to it:
    so far from the origin as coordinates of a map are, these would be rounded to half a meter.
    measured: whether the motion is from can_bus, whose place is not that of ego_pose; None if the
    model does not take it.
    """

    model: Any
    timestamp: float | None
    origin: NDArray[np.float64] | None
    measured: bool | None


class CameraStream:
    """`stream(folder)` or `stream(images, lidar2img, ego_pose, timestamp)`, frame by frame.

    BEVFormer takes `can_bus` or `ego_pose`, and no timestamp.
    """

    def __init__(self, predictor: Any) -> None:
        """Of a Detection3DPredictor whose model has a state."""
        self.predictor = predictor
        self.state: Any = None

    def __call__(
        self,
        source: Any,
        lidar2img: Any = None,
        ego_pose: Any = None,
        timestamp: Any = None,
        threshold: float | None = None,
        can_bus: Any = None,
    ) -> Detections3D:
        """Detections of the next frame, best first."""
        own = self.predictor
        least = score(own.threshold if threshold is None else threshold)
        motion = {"ego_pose": ego_pose, "timestamp": timestamp, "can_bus": can_bus}
        sample = own.sample_of(source, lidar2img, **motion)
        found: Detections3D
        found, self.state = own.run_frame(sample, self.state)
        return found.above(least)


def check_follows(sample: Any, earlier: FrameState) -> None:
    """InputError for a CameraSample not after the last one, or with another kind of motion.

    PETRv2 divides by the time between two frames.
    """
    if earlier.measured is not None and earlier.measured != (sample.can_bus is not None):
        begun, has = ("can_bus", "none") if earlier.measured else ("ego_pose", "can_bus")
        raise InputError(
            f"the stream began with {begun}, and this frame has {has}; send the same with all of "
            "its frames"
        )
    now, last = sample.timestamp, earlier.timestamp
    if now is not None and last is not None and now <= last:
        raise InputError(
            f"timestamp: {now:.3f} is not after the last frame's, {last:.3f}; send each frame of a "
            "stream once, in their order, with its time in seconds"
        )


def relative(sample: Any, origin: NDArray[np.float64] | None) -> Any:
    """The CameraSample with its pose relative to `origin` [3]."""
    pose = sample.ego_pose.copy()
    pose[:3, 3] -= origin
    return replace(sample, ego_pose=pose)
