"""nuScenes scores: ours against nuscenes-devkit 1.2.0, and the bridge to its environment."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from cupola.errors import DataError
from cupola.metrics.nuscenes import NuScenesMetric, default_attribute
from cupola.metrics.nuscenes_official import VARIABLE, official_scores
from cupola.metrics.nuscenes_scores import Box, nuscenes_scores
from cupola.structures import Detections3D
from goldens import seeded

NAMES = ("car", "pedestrian", "traffic_cone", "barrier")
# What devkit 1.2.0 said of `boxes()`; CUPOLA_NUSCENES_PYTHON set, the last test asks it again.
RECORDED = json.loads(Path(__file__).with_name("nuscenes_devkit.json").read_text())


def boxes() -> tuple[list[Box], list[Box]]:
    """Sixty objects, and detections that are near, far, duplicated, misclassified or tied."""
    uniform = seeded.seeded_uniform("nuscenes", (60, 12)).astype(float)
    truth, found = [], []
    for i, u in enumerate(uniform):
        name = NAMES[i % 4]
        place = (u[0] * 90 - 45, u[1] * 90 - 45)
        size = (1 + 4 * u[2], 1 + u[3], 1 + u[4])
        velocity = (4 * u[5] - 2, 0.0)
        truth.append(
            Box(
                str(i % 5), name, place, size, 6 * u[6], velocity, default_attribute(name, velocity)
            )
        )
        guess = (place[0] + 2 * u[7] - 1, place[1] + 2 * u[8] - 1)
        kind = name if u[9] < 0.85 else "car"
        speed = (velocity[0] + u[10], 0.3)
        score = round(u[11], 1)
        found.append(
            Box(
                str(i % 5),
                kind,
                guess,
                (2.0, 1.5, 1.5),
                6 * u[6] + 0.3,
                speed,
                "vehicle.parked",
                score,
            )
        )
        if u[11] < 0.3:
            found.append(
                Box(str(i % 5), kind, place, size, 0.0, speed, "vehicle.parked", score + 0.05)
            )
    return truth, found


def test_scores_equal_the_devkit_s() -> None:
    scores = nuscenes_scores(*boxes(), NAMES)
    assert scores.keys() == RECORDED.keys()
    for name, value in RECORDED.items():
        assert scores[name] == pytest.approx(value, abs=1e-9), name


def test_perfect_guesses_score_one() -> None:
    truth, _ = boxes()
    scores = nuscenes_scores(truth, truth, NAMES)
    assert scores["mAP"] == pytest.approx(1.0)
    assert scores["NDS"] == pytest.approx(1.0)


def test_no_guesses_score_zero() -> None:
    scores = nuscenes_scores(boxes()[0], [], NAMES)
    assert scores["mAP"] == scores["NDS"] == 0
    assert scores["mATE"] == 1


def test_the_metric_reads_batches() -> None:
    metric = NuScenesMetric(names=NAMES, metric="bbox")
    box = torch.tensor([[5.0, 8, -1, 4, 2, 1.5, 0.3, 1, 0]])
    batch = {"targets": [{"boxes": box, "labels": torch.tensor([0])}]}
    metric.update(batch, [Detections3D(box, torch.tensor([0.9]), torch.tensor([0]))])
    assert metric.compute()["AP/car"] == pytest.approx(1.0)
    metric.reset()
    with pytest.raises(DataError, match="at least one sample"):
        metric.compute()


@pytest.mark.parametrize(
    ("name", "speed", "attribute"),
    [
        ("car", 3.0, "vehicle.moving"),
        ("truck", 0.0, "vehicle.parked"),
        ("pedestrian", 1.0, "pedestrian.moving"),
        ("bicycle", 0.1, "cycle.without_rider"),
        ("traffic_cone", 0.0, ""),
    ],
)
def test_default_attributes(name: str, speed: float, attribute: str) -> None:
    assert default_attribute(name, (speed, 0.0)) == attribute


def test_a_missing_devkit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(DataError, match="pip install nuscenes-devkit"):
        official_scores([], [], NAMES)
    with pytest.raises(DataError, match="cannot be started"):
        official_scores([], [], NAMES, python="/nowhere/python")


def test_the_error_of_a_failing_devkit_is_included(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no such module' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(DataError, match="failed: no such module"):
        official_scores(*boxes(), NAMES, python=str(fake))


@pytest.mark.skipif(VARIABLE not in os.environ, reason="needs nuscenes-devkit's environment")
def test_the_devkit_itself() -> None:
    scores = official_scores(*boxes(), NAMES)
    assert all(math.isclose(scores[k], v, abs_tol=1e-12) for k, v in RECORDED.items())
