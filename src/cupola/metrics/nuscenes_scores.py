"""The nuScenes detection score: average precision by distance, and five errors.

Equal to nuscenes-devkit's `detection_cvpr_2019`, without needing its environment
(source: nuscenes/eval/detection/algo.py; arXiv 1903.11027, section 3.1).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError, did_you_mean

Array = NDArray[np.float64]

DISTANCES = (0.5, 1.0, 2.0, 4.0)  # meters between centers in the ground plane, for a match
ERROR_DISTANCE = 2.0  # the distance at which the errors are measured
RECALL = np.linspace(0, 1, 101)
FIRST = 11  # recall bins up to 0.1 are left out
MIN_PRECISION = 0.1
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
# Meters from the ego within which a class is evaluated.
CLASS_RANGE = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
MOST_BOXES = 500  # detections of one sample
ATTRIBUTES = (
    *("pedestrian.moving", "pedestrian.sitting_lying_down", "pedestrian.standing"),
    *("cycle.with_rider", "cycle.without_rider"),
    *("vehicle.moving", "vehicle.parked", "vehicle.stopped"),
)
# Errors that are undefined for a class: a cone has no front, and neither moves.
UNDEFINED = {
    "traffic_cone": ("attr_err", "vel_err", "orient_err"),
    "barrier": ("attr_err", "vel_err"),
}


@dataclass(frozen=True)
class Box:
    """A box of one sample. center: (x, y), meters from the ego; size: (l, w, h); yaw: radians."""

    sample: str
    name: str
    center: tuple[float, float]
    size: tuple[float, float, float]
    yaw: float
    velocity: tuple[float, float]
    attribute: str = ""
    score: float = 1.0


def nuscenes_scores(
    truth: Sequence[Box], found: Sequence[Box], names: Iterable[str]
) -> dict[str, float]:
    """mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE, and per class AP/NAME. The best error is 0.

    DataError for boxes that the devkit refuses, see check_boxes.
    """
    check_boxes(truth, found)
    found = _by_sample(found)
    precisions: dict[str, float] = {}
    errors: dict[str, dict[str, float]] = {}
    for name in names:
        mine = [box for box in truth if box.name == name and _near(box)]
        theirs = [box for box in found if box.name == name and _near(box)]
        curves = {limit: _match(mine, theirs, limit) for limit in DISTANCES}
        precisions[name] = float(np.mean([_average_precision(c) for c in curves.values()]))
        errors[name] = {
            error: math.nan
            if error in UNDEFINED.get(name, ())
            else _error(curves[ERROR_DISTANCE], error)
            for error in ERRORS
        }
    mean_ap = float(np.mean(list(precisions.values())))
    means = [_mean([each[error] for each in errors.values()]) for error in ERRORS]
    kept = sum(1 - min(1.0, mean) for mean in means if not math.isnan(mean))
    scores = {"mAP": mean_ap, "NDS": (5 * mean_ap + kept) / 10}
    scores |= dict(zip(("mATE", "mASE", "mAOE", "mAVE", "mAAE"), means, strict=True))
    return scores | {f"AP/{name}": value for name, value in precisions.items()}


def check_boxes(truth: Sequence[Box], found: Sequence[Box]) -> None:
    """DataError for NaN but in velocities, sizes <= 0, unknown names, too many boxes a sample."""
    for kind, boxes in (("truth", truth), ("detection", found)):
        for at, box in enumerate(boxes):
            problem = _problem(box)
            if problem:
                raise DataError(f"{kind} {at} of sample {box.sample}: {problem}")
    counts = Counter(box.sample for box in found)
    for sample, count in counts.items():
        if count > MOST_BOXES:
            raise DataError(f"sample {sample}: {count} detections; {MOST_BOXES} are accepted")


def _problem(box: Box) -> str:
    """Why nuscenes-devkit refuses a box; empty if it does not."""
    for name in ("center", "size", "yaw", "score"):
        if not np.isfinite(getattr(box, name)).all():
            return f"{name} {getattr(box, name)} is not finite"
    if min(box.size) <= 0:
        return f"size {box.size} is not positive"
    if box.name not in CLASS_RANGE:
        return f"unknown class {box.name!r}{did_you_mean(box.name, CLASS_RANGE)}"
    if box.attribute and box.attribute not in ATTRIBUTES:
        return f"unknown attribute {box.attribute!r}{did_you_mean(box.attribute, ATTRIBUTES)}"
    return ""


def _by_sample(boxes: Sequence[Box]) -> list[Box]:
    """Boxes grouped by sample, in order of appearance; the order breaks ties of equal scores."""
    groups: dict[str, list[Box]] = {}
    for box in boxes:
        groups.setdefault(box.sample, []).append(box)
    return [box for group in groups.values() for box in group]


def _near(box: Box) -> bool:
    return math.sqrt(box.center[0] ** 2 + box.center[1] ** 2) < CLASS_RANGE[box.name]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True)
class _Curve:
    """At each of 101 recalls: precision, confidence, and the errors of the matches so far."""

    precision: Array
    confidence: Array
    errors: dict[str, Array]


def _match(truth: list[Box], found: list[Box], limit: float) -> _Curve | None:
    """Greedy matching, best score first, with the nearest free object; None without matches."""
    by_sample: dict[str, list[Box]] = {}
    for box in truth:
        by_sample.setdefault(box.sample, []).append(box)
    # Of equal scores the later comes first, as in the devkit.
    order = sorted(range(len(found)), key=lambda i: (found[i].score, i), reverse=True)
    hits, matches = [], []
    for index in order:
        guess = found[index]
        free = by_sample.get(guess.sample, [])
        nearest = min(free, key=lambda box: math.dist(box.center, guess.center), default=None)
        hit = nearest is not None and math.dist(nearest.center, guess.center) < limit
        hits.append(hit)
        if hit and nearest is not None:
            free.pop(next(i for i, box in enumerate(free) if box is nearest))
            matches.append((nearest, guess))
    if not matches:
        return None
    true = np.cumsum(hits).astype(float)
    recall = true / len(truth)
    scores = np.array([found[i].score for i in order])
    precision = np.interp(RECALL, recall, true / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(RECALL, recall, scores, right=0)
    return _Curve(precision, confidence, _running_errors(matches, confidence))


def _running_errors(matches: list[tuple[Box, Box]], confidence: Array) -> dict[str, Array]:
    scores = np.array([guess.score for _, guess in matches])
    each = np.array([_errors(box, guess) for box, guess in matches])  # [matches, 5]
    return {
        error: np.interp(confidence[::-1], scores[::-1], _running_mean(column)[::-1])[::-1]
        for error, column in zip(ERRORS, each.T, strict=True)
    }


def _running_mean(values: Array) -> Array:
    """Mean of the values so far, leaving out NaN; 1 everywhere if all are NaN."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones_like(values)
    counts = np.cumsum(known)
    sums = np.nancumsum(values)
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts != 0)


def _errors(box: Box, guess: Box) -> tuple[float, float, float, float, float]:
    period = math.pi if box.name == "barrier" else 2 * math.pi
    turn = (box.yaw - guess.yaw + period / 2) % period - period / 2
    common = math.prod(map(min, box.size, guess.size))
    union = math.prod(box.size) + math.prod(guess.size) - common
    same = math.nan if not box.attribute else float(box.attribute != guess.attribute)
    return (
        math.dist(box.center, guess.center),
        1 - common / union,
        abs(turn),
        math.dist(box.velocity, guess.velocity),
        same,
    )


def _average_precision(curve: _Curve | None) -> float:
    if curve is None:
        return 0.0
    above = np.clip(curve.precision[FIRST:] - MIN_PRECISION, 0, None)
    return float(above.mean() / (1 - MIN_PRECISION))


def _error(curve: _Curve | None, error: str) -> float:
    if curve is None:
        return 1.0
    last = np.nonzero(curve.confidence)[0].max(initial=0)
    return 1.0 if last < FIRST else float(np.mean(curve.errors[error][FIRST : last + 1]))
