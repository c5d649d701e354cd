"""3-D detections around the ego vehicle."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Detections3D:
    """Boxes of one sample, best first.

    boxes: [N, 9], (x, y, z of the bottom, l, w, h, yaw, vx, vy), meters, radians, m/s, ego frame.
    scores: [N], 0..1. labels: [N], int64, index into `names`. queries: [N], the query of each box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = field(default=(), repr=False)
    queries: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections3D":
        """Those with a score of at least `threshold`."""
        keep = self.scores >= threshold
        queries = None if self.queries is None else self.queries[keep]
        return Detections3D(
            self.boxes[keep], self.scores[keep], self.labels[keep], self.names, queries
        )

    def cpu(self) -> "Detections3D":
        """The same with its tensors on the CPU."""
        moved = {key: getattr(self, key).cpu() for key in ("boxes", "scores", "labels")}
        return replace(self, queries=None if self.queries is None else self.queries.cpu(), **moved)

    def name(self, label: int) -> str:
        """The class name of a label, or the number if it has no name."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def to_list(self) -> list[dict[str, Any]]:
        """One plain dict per box: name, label, score, center (bottom), size, yaw, velocity."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
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
