"""Whole nuScenes evaluations of generated tables: ours against nuscenes-devkit's DetectionEval."""

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.data.detection3d import collate_detection3d
from cupola.data.driving.tables import write_scenes
from cupola.data.nuscenes import NUSCENES_NAMES, NuScenesDataset
from cupola.errors import DataError
from cupola.metrics.nuscenes import NuScenesMetric
from cupola.metrics.nuscenes_official import VARIABLE
from cupola.metrics.nuscenes_scores import Box, nuscenes_scores
from cupola.structures import Detections3D

# What nuscenes-devkit 1.2.0 with numpy 1.26 said of each change of the tables; set
# CUPOLA_NUSCENES_PYTHON to ask it again.
RECORDED = json.loads(Path(__file__).with_name("nuscenes_runs.json").read_text())
DEVKIT = """
import json, sys
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
root, results, out = sys.argv[1:]
tables = NuScenes("v1.0-mini", root, verbose=False)
config = config_factory("detection_cvpr_2019")
run = DetectionEval(tables, config, results, "mini_val", out, verbose=False)
made = run.evaluate()[0].serialize()
names = {"mATE": "trans_err", "mASE": "scale_err", "mAOE": "orient_err", "mAVE": "vel_err",
         "mAAE": "attr_err"}
scores = {"mAP": made["mean_ap"], "NDS": made["nd_score"]}
scores |= {short: made["tp_errors"][name] for short, name in names.items()}
scores |= {f"AP/{name}": value for name, value in made["mean_dist_aps"].items()}
json.dump(scores, open(out + "/scores.json", "w"))
"""
SCENES = ["scene-0103", "scene-0916"]  # mini_val
Table = list[dict[str, Any]]


def edit(root: Path, name: str, change: Callable[[Table], None]) -> None:
    path = root / "v1.0-mini" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def stopped(root: Path) -> None:
    """Vehicles that stand still for a moment; objects with no attribute."""

    def add(table: Table) -> None:
        table.append({"token": "stopped", "name": "vehicle.stopped", "description": ""})

    def change(table: Table) -> None:
        for at, record in enumerate(table):
            record["attribute_tokens"] = ["stopped"] if at % 3 else []

    edit(root, "attribute", add)
    edit(root, "sample_annotation", change)


def unknown_velocities(root: Path) -> None:
    def change(table: Table) -> None:
        for at, record in enumerate(table):
            if at % 4:
                record["prev"] = record["next"] = ""

    edit(root, "sample_annotation", change)


def far_boxes(root: Path) -> None:
    """Objects between the ranges around the lidar and around the ego, some without points."""
    poses = {p["token"]: p for p in json.loads((root / "v1.0-mini/ego_pose.json").read_text())}
    data = json.loads((root / "v1.0-mini" / "sample_data.json").read_text())
    place = {
        d["sample_token"]: poses[d["ego_pose_token"]]["translation"]
        for d in data
        if "LIDAR" in d["filename"] or d["fileformat"] == "pcd"
    }

    def change(table: Table) -> None:
        for at, record in enumerate(table):
            x, y, _ = place[record["sample_token"]]
            if at % 3 == 0:
                turn = 0.7 * at
                away = 49.2 + 0.1 * (at % 16)
                record["translation"][:2] = [x + away * math.cos(turn), y + away * math.sin(turn)]
            if at % 7 == 0:
                record["num_lidar_pts"] = 0

    edit(root, "sample_annotation", change)


def bicycle_racks(root: Path) -> None:
    """Cars become bicycles, every other one inside a rack."""
    categories: dict[str, str] = {}

    def rename(table: Table) -> None:
        for record in table:
            if record["name"] == "vehicle.car":
                record["name"] = "vehicle.bicycle"
                categories["bicycle"] = record["token"]
        table.append({"token": "rack", "name": "static_object.bicycle_rack", "description": ""})

    def instances(table: Table) -> None:
        categories.update({r["token"]: r["category_token"] for r in table})
        table.append({**table[0], "token": "rack", "category_token": "rack"})

    def change(table: Table) -> None:
        bicycles = [r for r in table if categories[r["instance_token"]] == categories["bicycle"]]
        for at, record in enumerate(bicycles[::2]):
            rack = {**record, "token": f"rack{at}", "instance_token": "rack", "size": [2, 3, 4]}
            rack |= {"prev": "", "next": "", "attribute_tokens": []}
            table.append(rack)

    edit(root, "category", rename)
    edit(root, "instance", instances)
    edit(root, "sample_annotation", change)


def nothing(root: Path) -> None:
    """The tables as they are."""


def everything(root: Path) -> None:
    for change in (stopped, unknown_velocities, far_boxes, bicycle_racks):
        change(root)


CHANGES = (nothing, stopped, unknown_velocities, far_boxes, bicycle_racks, everything)


def with_points(table: Table) -> None:
    """The images are too small to show most objects, which would leave these without points."""
    for record in table:
        record["num_lidar_pts"] = 3


def run(root: Path, change: Callable[[Path], None]) -> NuScenesMetric:
    """Detections near the objects, some doubled, some of other classes, float32 as a model's."""
    write_scenes(root, count=10, frames=3, size=(6, 10))
    edit(root, "sample_annotation", with_points)
    change(root)
    data = NuScenesDataset(root, version="v1.0-mini", scenes=SCENES, test_mode=True)
    metric = NuScenesMetric(NUSCENES_NAMES)
    rng = np.random.Generator(np.random.PCG64(5))
    for index in range(len(data)):
        batch = collate_detection3d([data[index]])
        target = batch["targets"][0]
        boxes = torch.cat((target["boxes"], target["boxes"][::2]))
        labels = torch.cat((target["labels"], target["labels"][::2]))
        noise = torch.from_numpy(rng.random((len(boxes), 9))).float() - 0.5
        boxes = boxes + noise * torch.tensor([2, 2, 0.3, 0.4, 0.4, 0.4, 1, 1, 1])
        scores = torch.from_numpy(np.round(rng.random(len(boxes)), 1)).float()
        other = torch.from_numpy(rng.random(len(boxes)) < 0.1)
        labels = torch.where(other, torch.zeros_like(labels), labels)
        metric.update(batch, [Detections3D(boxes, scores, labels)])
    return metric


@pytest.mark.parametrize("change", CHANGES)
def test_scores_equal_the_devkit_s(tmp_path: Path, change: Callable[[Path], None]) -> None:
    metric = run(tmp_path, change)
    expected = RECORDED[change.__name__]
    if VARIABLE in os.environ:
        expected = devkit_scores(tmp_path, metric)
    scores = metric.compute()
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-9), name


def devkit_scores(root: Path, metric: NuScenesMetric) -> dict[str, float]:
    path = root / "results_nusc.json"
    path.write_text(json.dumps(metric.submission()))
    (root / "maps").mkdir(exist_ok=True)
    command = [os.environ[VARIABLE], "-I", "-c", DEVKIT, str(root), str(path), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    found: dict[str, float] = json.loads((root / "scores.json").read_text())
    return found


def test_the_changes_change_the_scores() -> None:
    assert len({round(scores["NDS"], 6) for scores in RECORDED.values()}) == len(CHANGES)


GOOD: dict[str, Any] = {
    "sample": "a",
    "name": "car",
    "center": (1.0, 2.0),
    "size": (4.0, 2.0, 1.5),
    "yaw": 0.1,
    "velocity": (math.nan, math.nan),
    "attribute": "vehicle.parked",
    "score": 0.5,
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": math.nan}, "score nan is not finite"),
        ({"center": (math.nan, 0.0)}, r"center \(nan, 0\.0\) is not finite"),
        ({"yaw": math.nan}, "yaw nan is not finite"),
        ({"size": (1.0, math.nan, 1.0)}, "size .* is not finite"),
        ({"size": (1.0, 0.0, 1.0)}, "is not positive"),
        ({"size": (1.0, -1.0, 1.0)}, "is not positive"),
        ({"name": "tram"}, "unknown class 'tram'"),
        ({"attribute": "vehicle.parkd"}, "unknown attribute 'vehicle.parkd'.*vehicle.parked"),
    ],
)
def test_what_the_devkit_refuses(changed: dict[str, Any], message: str) -> None:
    good, bad = Box(**GOOD), Box(**{**GOOD, **changed})
    for truth, found, kind in (([good], [good, bad], "detection 1"), ([bad], [good], "truth 0")):
        with pytest.raises(DataError, match=f"{kind} of sample a: .*{message}"):
            nuscenes_scores(truth, found, ["car"])


def test_too_many_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample a: 501 detections; 500 are accepted"):
        nuscenes_scores([], [Box(**GOOD)] * 501, ["car"])
    write_scenes(tmp_path, count=1, frames=1, size=(6, 10))
    batch = collate_detection3d([NuScenesDataset(tmp_path, version="v1.0-mini")[0]])
    metric = NuScenesMetric(NUSCENES_NAMES)
    box = torch.tensor([[5.0, 8, -1, 4, 2, 1.5, 0.3, 1, 0]])
    many = Detections3D(box.expand(501, 9), torch.ones(501), torch.zeros(501, dtype=torch.long))
    with pytest.raises(DataError, match="501 boxes; 500 are accepted"):
        metric.update(batch, [many])
    broken = Detections3D(box * math.nan, torch.ones(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(DataError, match="a car with NaN or infinity"):
        metric.update(batch, [broken])
    one = Detections3D(box, torch.ones(1), torch.zeros(1, dtype=torch.long))
    metric.update(batch, [one])
    with pytest.raises(DataError, match="evaluated twice"):
        metric.update(batch, [one])
