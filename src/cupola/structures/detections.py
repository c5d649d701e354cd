"""Detections in one image."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    boxes: [N, 4], xyxy, pixels of the original image.
    scores: [N], 0..1. labels: [N], int64, index into `names`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least `threshold`."""
        keep = self.scores >= threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.names)

    def name(self, label: int) -> str:
        """The class name of a label, or the number if it has no name."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def to_list(self) -> list[dict[str, Any]]:
        """One plain dict per box: name, label, score, box."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {"name": self.name(label), "label": label, "score": score, "box": box}
            for box, score, label in rows
        ]
