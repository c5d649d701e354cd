"""NuScenesMetric: mAP and NDS, equal to those of nuscenes-devkit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cupola.errors import DataError
from cupola.metrics.nuscenes_scores import Box, nuscenes_scores
from cupola.registry import METRICS

MOVING = 0.2  # m/s, the limit of MMDetection3D's default attributes


def default_attribute(name: str, velocity: Sequence[float]) -> str:
    """The attribute for a class and a velocity, for models that predict none."""
    moving = math.hypot(velocity[0], velocity[1]) > MOVING
    if name in ("traffic_cone", "barrier"):
        return ""
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if name in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if moving else "cycle.without_rider"
    return "vehicle.moving" if moving else "vehicle.parked"


@METRICS.register_module()
class NuScenesMetric:
    """mAP, NDS and mean errors of Detections3D against batches with targets in the ego's frame.

    `names` are the classes by label, by default the dataset's. `truth` and
    `found` hold the boxes for metrics.nuscenes_official.
    """

    def __init__(self, names: Sequence[str] = (), **published: Any) -> None:
        self.names = tuple(names)
        self.reset()

    def use(self, dataset: Any) -> None:
        """Takes the classes of the dataset, unless they were given."""
        self.names = self.names or tuple(getattr(dataset, "names", ()))

    def reset(self) -> None:
        """Discards all samples."""
        self.truth: list[Box] = []
        self.found: list[Box] = []
        self._samples = 0

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; boxes are [N, 9], meters, radians, m/s."""
        for b, prediction in enumerate(predictions):
            sample = str(self._samples)
            self._samples += 1
            target = batch["targets"][b]
            self.truth += self._boxes(sample, target["boxes"], target["labels"])
            self.found += self._boxes(
                sample, prediction.boxes, prediction.labels, prediction.scores
            )

    def _boxes(self, sample: str, boxes: Any, labels: Any, scores: Any = None) -> list[Box]:
        confidence = [1.0] * len(labels) if scores is None else scores.tolist()
        made = []
        for row, label, score in zip(boxes.tolist(), labels.tolist(), confidence, strict=True):
            name = self.names[label]
            x, y, _, length, width, height, yaw, vx, vy = row
            attribute = default_attribute(name, (vx, vy))
            size = (length, width, height)
            made.append(Box(sample, name, (x, y), size, yaw, (vx, vy), attribute, score))
        return made

    def compute(self) -> dict[str, float]:
        """The scores by name. Raises DataError if there were no samples."""
        if not self._samples:
            raise DataError("nuScenes scores need at least one sample; the dataset is empty")
        return nuscenes_scores(self.truth, self.found, self.names)
