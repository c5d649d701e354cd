"""How far the answers of an engine may be from those of the model as it was loaded, per task.

| task        | exact engines                        | eight bits                           |
|-------------|--------------------------------------|--------------------------------------|
| detection   | 0.5 pixels, scores 0.005, masks 0.98 | 8 pixels, scores 0.1, masks 0.8      |
| detection3d | 0.05 m, scores 0.005                 | 0.5 m, scores 0.1                    |
| forecast    | 1e-4 relative L2 of one step         | 2e-2                                 |
| any other   | 1e-4 relative L2 of the raw results  | 2e-2                                 |

Detections are compared one by one: every one with a score above 0.05, and the best ten, must have
one of the same class in the other answer. Boxes of a whole image's size count in pixels as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

LEAST_SCORE, BEST = 0.05, 10
FAR = float("inf")


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed differences."""

    length: float  # of a side or coordinate of a box: pixels, or meters
    score: float
    overlap: float  # the least intersection over union of two masks
    relative: float  # L2


EXACT = {
    "detection": Tolerance(0.5, 0.005, 0.98, 1e-4),
    "detection3d": Tolerance(0.05, 0.005, 0.98, 1e-4),
}
ROUNDED = {
    "detection": Tolerance(8.0, 0.1, 0.8, 2e-2),
    "detection3d": Tolerance(0.5, 0.1, 0.8, 2e-2),
}
OTHERS = {True: Tolerance(0.0, 0.0, 1.0, 1e-4), False: Tolerance(0.0, 0.0, 1.0, 2e-2)}


def tolerance_of(task: str, exact: bool) -> Tolerance:
    """The tolerance of a task for engines that are exact, or that round to eight bits."""
    return (EXACT if exact else ROUNDED).get(task, OTHERS[exact])


@dataclass(frozen=True)
class Difference:
    """How far an answer is from another: None for what these answers do not have."""

    length: float | None = None
    score: float | None = None
    overlap: float | None = None
    relative: float | None = None
    unit: str = ""

    def within(self, allowed: Tolerance) -> bool:
        """Whether nothing differs by more than is allowed; NaN differs."""
        return (
            (self.length is None or self.length <= allowed.length)
            and (self.score is None or self.score <= allowed.score)
            and (self.overlap is None or self.overlap >= allowed.overlap)
            and (self.relative is None or self.relative <= allowed.relative)
        )

    def __str__(self) -> str:
        if FAR in (self.length, self.relative):
            return "other results"
        parts = [
            None if self.length is None else f"boxes {self.length:.2g} {self.unit}",
            None if self.score is None else f"scores {self.score:.1g}",
            None if self.overlap is None else f"masks' IoU {self.overlap:.3f}",
            None if self.relative is None else f"relative L2 {self.relative:.1e}",
        ]
        return ", ".join(part for part in parts if part) or "none"


def difference(task: str, answer: Any, expected: Any) -> Difference:
    """How far one sample's prediction is from the expected one."""
    if task in ("detection", "detection3d") and len(expected):
        return _detections(answer, expected, "px" if task == "detection" else "m")
    if task == "forecast":
        return Difference(relative=relative_l2(answer.fields, expected.fields))
    return Difference(relative=_nested(answer, expected))


def raw_difference(answer: Any, expected: Any) -> Difference:
    """How far the results of two networks are from each other."""
    return Difference(relative=_nested(answer, expected))


def relative_l2(answer: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of the expected values."""
    if answer.shape != expected.shape:
        return FAR
    wide, wanted = (each.detach().to("cpu", torch.float64) for each in (answer, expected))
    if not bool((wide.isfinite() == wanted.isfinite()).all()):
        return FAR
    wide, wanted = (torch.nan_to_num(each, 0.0, 0.0, 0.0) for each in (wide, wanted))
    return float((wide - wanted).norm() / wanted.norm().clamp(min=1e-12))


def _nested(answer: Any, expected: Any) -> float:
    def numbers(tree: Any) -> list[Tensor]:
        leaves = [each for each in pytree.tree_leaves(tree) if isinstance(each, Tensor)]
        return [each for each in leaves if each.is_floating_point() and each.numel()]

    found, wanted = numbers(answer), numbers(expected)
    if len(found) != len(wanted):
        return FAR
    return max([relative_l2(*pair) for pair in zip(found, wanted, strict=True)], default=0.0)


def _detections(answer: Any, expected: Any, unit: str) -> Difference:
    """Of two sets of detections, whichever of both is compared with the other."""
    one, other = _matched(expected, answer), _matched(answer, expected)
    if one is None or other is None:
        return Difference(FAR, FAR, None, None, unit)
    length, score, overlap = (
        max(one[0], other[0]),
        max(one[1], other[1]),
        None if one[2] is None or other[2] is None else min(one[2], other[2]),
    )
    return Difference(length, score, overlap, None, unit)


def _matched(these: Any, those: Any) -> tuple[float, float, float | None] | None:
    """The largest differences of the confident detections from their nearest counterparts."""
    order = these.scores.argsort(descending=True)
    confident = [int(i) for i in order if float(these.scores[i]) >= LEAST_SCORE]
    length = score = 0.0
    overlap: float | None = None
    for i in confident or order[:BEST].tolist():
        same = (those.labels == these.labels[i]).nonzero()[:, 0]
        if not len(same):
            return None
        sides = (those.boxes[same] - these.boxes[i]).abs().amax(-1)
        scores = (those.scores[same] - these.scores[i]).abs()
        nearest = int((sides + scores).argmin())
        length = max(length, float(sides[nearest]))
        score = max(score, float(scores[nearest]))
        if getattr(these, "masks", None) is not None and those.masks is not None:
            found = _overlap(these.masks[i], those.masks[same[nearest]])
            overlap = found if overlap is None else min(overlap, found)
    return length, score, overlap


def _overlap(one: Tensor, other: Tensor) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def worst(differences: Sequence[Difference]) -> Difference:
    """The largest of several differences."""

    def most(name: str, choose: Any) -> Any:
        known = [getattr(each, name) for each in differences if getattr(each, name) is not None]
        return choose(known) if known else None

    unit = next((each.unit for each in differences if each.unit), "")
    names = (most("length", max), most("score", max), most("overlap", min), most("relative", max))
    return Difference(*names, unit)
