"""3-D detections around the ego vehicle."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

PARTS = ("boxes", "scores", "labels", "queries", "tracks")


@dataclass(frozen=True)
class Detections3D:
    """Boxes of one sample, best first.

    boxes: [N, 9], (x, y, z of the bottom, l, w, h, yaw, vx, vy), meters, radians, m/s, ego frame.
    scores: [N], 0..1. labels: [N], int64, index into `names`. queries: [N], the query of each box.
    tracks: [N], int64, the number of each object in its stream, of models that track; else None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = field(default=(), repr=False)
    queries: Tensor | None = field(default=None, repr=False)
    tracks: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections3D":
        """Those with a score of at least `threshold`."""
        keep = self.scores >= threshold
        return self._each(lambda part: part[keep])

    def cpu(self) -> "Detections3D":
        """The same with its tensors on the CPU."""
        return self._each(lambda part: part.cpu())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Detections3D":
        parts = {name: getattr(self, name) for name in PARTS}
        changed: dict[str, Any] = {k: v if v is None else change(v) for k, v in parts.items()}
        return replace(self, **changed)

    def name(self, label: int) -> str:
        """The class name of a label, or the number if it has no name."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def to_list(self) -> list[dict[str, Any]]:
        """One plain dict per box: name, label, score, bottom, size, yaw, velocity, and track."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        found = [
            {
                "name": self.name(label),
                "label": label,
                "score": score,
                "bottom": box[:3],
                "size": box[3:6],
                "yaw": box[6],
                "velocity": box[7:9],
            }
            for box, score, label in rows
        ]
        if self.tracks is not None:
            for row, track in zip(found, self.tracks.tolist(), strict=True):
                row["track"] = track
        return found
