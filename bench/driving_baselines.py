"""nuScenes scores of detr3d-scenes and of two baselines on the same scenes.

    python bench/driving_baselines.py [--streets 100] [--known 400]

"mean layout" predicts the same for every scene: for each class the grid cells with the most agents
in the training scenes, most frequent first. "size prior" knows the true class and outline of every
agent in the image where most of it is visible. It derives the distance from the height of the
outline and the mean height of the class, and the heading from the direction of the road.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

import cupola
from cupola.data.driving import CLASS_NAMES, Scene, render
from cupola.data.driving.agents import MEAN_SIZES
from cupola.data.driving.render import View
from cupola.data.driving.rig import Camera
from cupola.data.driving.scene import GROUND
from cupola.data.driving_scenes import DrivingScenes, SceneImages, scene_at
from cupola.metrics.nuscenes import NuScenesMetric
from cupola.structures import Detections3D

NAME = "detr3d-scenes"
SIZE = (96, 160)
CELL = 2.0  # meters: the side of the mean layout's cells
MOST = 60  # boxes of each class
AHEAD = math.pi / 2  # the road runs along y

Row = tuple[list[float], float, int]  # box, score, label


def detections(rows: Sequence[Row]) -> Detections3D:
    rows = sorted(rows, key=lambda row: -row[1])
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 9)
    scores = torch.tensor([score for _, score, _ in rows])
    labels = torch.tensor([label for _, _, label in rows], dtype=torch.long)
    return Detections3D(boxes, scores, labels, CLASS_NAMES)


def mean_layout(streets: int) -> Detections3D:
    """Per class the cells with most agents in `streets` training scenes, with their mean box."""
    cells: dict[tuple[int, int, int], list[Any]] = {}
    for index in range(streets):
        scene, _ = scene_at(0, "train", index, SIZE)
        for agent in scene.agents:
            column, row = np.floor(agent.position[:2] / CELL).astype(int)
            cells.setdefault((agent.label, int(column), int(row)), []).append(agent.box)
    rows: list[Row] = []
    for label in range(len(CLASS_NAMES)):
        mine = [(key, boxes) for key, boxes in cells.items() if key[0] == label]
        mine.sort(key=lambda item: (-len(item[1]), item[0]))
        for _, boxes in mine[:MOST]:
            mean = np.mean(boxes, axis=0)
            yaws = np.array(boxes)[:, 6]
            mean[6] = math.atan2(np.sin(yaws).sum(), np.cos(yaws).sum())
            rows.append((mean.tolist(), len(boxes) / streets, label))
    return detections(rows)


def size_prior(scene: Scene, rig: Sequence[Camera], views: Sequence[View]) -> Detections3D:
    """A box for every visible agent, at the distance given by its height in the image."""
    covered = np.stack([view.visible(len(scene.agents)) for view in views])  # [cameras, agents]
    rows: list[Row] = []
    for index, agent in enumerate(scene.agents):
        best = int(covered[:, index].argmax())
        if covered[best, index] == 0:
            continue
        length, width, height = MEAN_SIZES[CLASS_NAMES[agent.label]]
        x, y = _place(rig[best], np.argwhere(views[best].owner == index), height, length)
        yaw = AHEAD if x > 0 else -AHEAD  # traffic keeps to the right
        box = [x, y, GROUND, length, width, height, yaw, 0.0, 0.0]
        rows.append((box, float(covered[best, index]) / covered.max(), agent.label))
    return detections(rows)


def _place(camera: Camera, pixels: Any, height: float, length: float) -> tuple[float, float]:
    """The position of an outline, at the distance where `height` has its size in pixels."""
    top, bottom = pixels[:, 0].min(), pixels[:, 0].max() + 1
    column = (pixels[:, 1].min() + pixels[:, 1].max() + 1) / 2
    depth = camera.intrinsic[1, 1] * height / (bottom - top)
    ray = np.array([column, (top + bottom) / 2, 1.0]) @ np.linalg.inv(camera.intrinsic).T
    near = camera.position + camera.rotation @ ray * depth  # its nearest side
    middle = near + camera.rotation[:, 2] * length / 4  # between an end-on and a side-on view
    return float(middle[0]), float(middle[1])


def streets(count: int) -> Iterator[tuple[SceneImages, Scene, list[Camera], list[View]]]:
    """The test scenes of the bundle's card."""
    data = DrivingScenes(split="val", seed=1, size=SIZE)
    for index in range(count):
        scene, rig = scene_at(1, "val", index, SIZE)
        yield data.draw(index), scene, rig, [render(scene, camera, SIZE) for camera in rig]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streets", type=int, default=100)
    parser.add_argument("--known", type=int, default=3000)
    arguments = parser.parse_args()
    layout, predictor = mean_layout(arguments.known), cupola.Predictor.load(NAME)
    ways: dict[str, Callable[..., Detections3D]] = {
        "mean layout": lambda *_: layout,
        "size prior": lambda _, scene, rig, views: size_prior(scene, rig, views),
        NAME: lambda drawn, *_: predictor(drawn.images, drawn.lidar2img, threshold=0.0),
    }
    metrics = {name: NuScenesMetric(CLASS_NAMES) for name in ways}
    for drawn, *rest in streets(arguments.streets):
        truth = {"boxes": torch.from_numpy(drawn.boxes), "labels": torch.from_numpy(drawn.labels)}
        for name, way in ways.items():
            metrics[name].update({"targets": [truth]}, [way(drawn, *rest)])
    print(f"{arguments.streets} scenes that were not used for training")
    for name, metric in metrics.items():
        scores = metric.compute()
        print(f"{name:14}" + "".join(f"  {key} {value:.3f}" for key, value in scores.items()))


if __name__ == "__main__":
    main()
