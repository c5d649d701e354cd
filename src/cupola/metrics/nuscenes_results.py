"""Detections of nuScenes samples as the benchmark's results, and as boxes to be scored.

Source: nuscenes-devkit's eval/common/loaders.py (frames and filters); the format of the results is
that of https://www.nuscenes.org/object-detection.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.spatial.transform import Rotation

from cupola.errors import DataError
from cupola.metrics.nuscenes_scores import CLASS_RANGE, Box
from cupola.structures.scene_truth import GlobalBox, SceneTruth

MOVING = 0.2  # m/s, the limit of MMDetection3D's default attributes
MOST = 500  # boxes of a sample
IN_RACKS = ("bicycle", "motorcycle")
# The attribute of an object at rest; MMDetection3D's.
RESTING = {
    "traffic_cone": "",
    "barrier": "",
    "pedestrian": "pedestrian.standing",
    "bicycle": "cycle.without_rider",
    "motorcycle": "cycle.without_rider",
    "bus": "vehicle.stopped",
}
META = {
    "use_camera": True,
    "use_lidar": False,
    "use_radar": False,
    "use_map": False,
    "use_external": False,
}


def default_attribute(name: str, velocity: Sequence[float]) -> str:
    """The attribute for a class and a velocity, for models that predict none."""
    if not math.hypot(velocity[0], velocity[1]) > MOVING:
        return RESTING.get(name, "vehicle.parked")
    if name in ("traffic_cone", "barrier"):
        return ""
    if name == "pedestrian":
        return "pedestrian.moving"
    return "cycle.with_rider" if name in IN_RACKS else "vehicle.moving"


def results_of(
    scene: SceneTruth,
    rows: Sequence[Sequence[float]],
    names: Sequence[str],
    scores: Sequence[float],
) -> list[dict[str, Any]]:
    """The results of one sample from boxes [N, 9] in its lidar's frame, z at the bottom."""
    if len(rows) > MOST:
        raise DataError(f"sample {scene.token}: {len(rows)} boxes; {MOST} are accepted")
    turn = scene.lidar2global[:3, :3]
    made = []
    for row, name, score in zip(rows, names, scores, strict=True):
        x, y, z, length, width, height, yaw, vx, vy = row
        if not all(map(math.isfinite, (*row[:7], score))):
            raise DataError(f"sample {scene.token}: a {name} with NaN or infinity ({row}, {score})")
        center = scene.lidar2global @ [x, y, z + height / 2, 1.0]
        velocity = (turn @ [vx, vy, 0.0])[:2].tolist()
        qx, qy, qz, qw = (Rotation.from_matrix(turn) * Rotation.from_euler("z", yaw)).as_quat()
        made.append(
            {
                "sample_token": scene.token,
                "translation": center[:3].tolist(),
                "size": [width, length, height],
                "rotation": [float(qw), float(qx), float(qy), float(qz)],
                "velocity": velocity,
                "detection_name": name,
                "detection_score": score,
                "attribute_name": default_attribute(name, velocity),
            }
        )
    return made


def scored_results(scene: SceneTruth, results: Sequence[Mapping[str, Any]]) -> list[Box]:
    """The results of a sample that are evaluated."""
    found = []
    for each in results:
        w, x, y, z = each["rotation"]
        forward = Rotation.from_quat([x, y, z, w]).apply([1.0, 0.0, 0.0])
        width, length, height = each["size"]
        box = GlobalBox(
            each["detection_name"],
            tuple(each["translation"]),
            (length, width, height),
            math.atan2(forward[1], forward[0]),
            tuple(each["velocity"]),
            each["attribute_name"],
        )
        found += _scored(scene, box, each["detection_score"])
    return found


def scored_truth(scene: SceneTruth) -> list[Box]:
    """The objects of a sample that are evaluated."""
    return [box for each in scene.boxes for box in _scored(scene, each, -1.0)]


def _scored(scene: SceneTruth, box: GlobalBox, score: float) -> list[Box]:
    """The box relative to the ego; none out of its class's range, without points, in a rack."""
    place = (box.center[0] - scene.ego[0], box.center[1] - scene.ego[1])
    far = not math.sqrt(place[0] ** 2 + place[1] ** 2) < CLASS_RANGE.get(box.name, math.inf)
    racked = box.name in IN_RACKS and any(rack.contains(box.center) for rack in scene.racks)
    if far or box.points == 0 or racked:
        return []
    made = Box(scene.token, box.name, place, box.size, box.yaw, box.velocity, box.attribute, score)
    return [made]
