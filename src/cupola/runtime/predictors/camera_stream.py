"""CameraStream: the state of one stream of a multi-camera model."""

from typing import Any

from cupola.runtime.parameters import score
from cupola.structures import Detections3D


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
