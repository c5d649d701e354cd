"""NuScenesMetric: mAP and NDS, equal to those of nuscenes-devkit."""

from collections.abc import Mapping, Sequence
from typing import Any

from cupola.errors import DataError
from cupola.metrics.nuscenes_results import (
    META,
    default_attribute,
    results_of,
    scored_results,
    scored_truth,
)
from cupola.metrics.nuscenes_scores import Box, nuscenes_scores
from cupola.registry import METRICS
from cupola.structures.scene_truth import SceneTruth


@METRICS.register_module()
class NuScenesMetric:
    """mAP, NDS and mean errors of Detections3D.

    Batches with `scenes` (SceneTruth) are evaluated as nuscenes-devkit's DetectionEval does: in the
    global frame, with all its filters. Others, of synthetic scenes, against their targets in the
    ego's frame, with default attributes.
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
        self.results: dict[str, list[dict[str, Any]]] = {}
        self._samples = 0

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; boxes are [N, 9], meters, radians, m/s."""
        scenes = batch.get("scenes") or [None] * len(predictions)
        for b, prediction in enumerate(predictions):
            sample = str(self._samples)
            self._samples += 1
            if scenes[b] is not None:
                self.add(scenes[b], prediction)
                continue
            target = batch["targets"][b]
            self.truth += self._boxes(sample, target["boxes"], target["labels"])
            self.found += self._boxes(
                sample, prediction.boxes, prediction.labels, prediction.scores
            )

    def add(self, scene: SceneTruth, prediction: Any, names: Sequence[str] = ()) -> None:
        """Adds the detections of one sample in its lidar's frame; `names` by label if not ours."""
        if scene.token in self.results:
            raise DataError(f"sample {scene.token} is evaluated twice")
        names = [(names or self.names)[label] for label in prediction.labels.tolist()]
        scores = prediction.scores.double().tolist()
        rows = prediction.boxes.double().tolist()
        self.results[scene.token] = results_of(scene, rows, names, scores)
        self.truth += scored_truth(scene)
        self.found += scored_results(scene, self.results[scene.token])

    def submission(self) -> dict[str, Any]:
        """The content of results_nusc.json, as nuscenes-devkit takes it."""
        return {"meta": META, "results": self.results}

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
        if not self._samples and not self.results:
            raise DataError("nuScenes scores need at least one sample; the dataset is empty")
        return nuscenes_scores(self.truth, self.found, self.names)
