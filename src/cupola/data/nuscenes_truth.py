"""The truth of nuScenes' detection benchmark, as nuscenes-devkit loads it from the tables."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.data.nuscenes_samples import SampleRecord
from cupola.data.nuscenes_tables import LazySamples, Tables, detection_name, pose
from cupola.errors import DataError
from cupola.structures.scene_truth import Cuboid, GlobalBox, SceneTruth, Triple

Array = NDArray[np.float64]
logger = logging.getLogger("cupola")

RACK = "static_object.bicycle_rack"


def find_tables(root: Path, version: str, samples: Sequence[SampleRecord]) -> Tables | None:
    """The tables below `root` that describe the samples, those of `version` first."""
    if isinstance(samples, LazySamples):
        return samples.tables
    versions = [version, *(path.name for path in sorted(root.glob("v1.0-*")))]
    for each in dict.fromkeys(versions):
        if len(samples) and (root / each / "sample.json").is_file():
            tables = Tables(root, each)
            if samples[0].token in tables.table("sample"):
                return tables
    logger.warning(
        "%s: no tables of these samples; attributes and bicycle racks are unknown, and scores "
        "differ from nuscenes-devkit's",
        root,
    )
    return None


def truth_from_tables(tables: Tables, sample: str) -> SceneTruth:
    """All annotations of a sample that have a detection class, and its bicycle racks."""
    lidar = tables.lidar(sample)
    ego = tables.table("ego_pose")[lidar["ego_pose_token"]]
    calibration = tables.table("calibrated_sensor")[lidar["calibrated_sensor_token"]]
    boxes, racks = [], []
    for record in tables.annotations(sample):
        category = tables.category(record)
        if (name := detection_name(category)) is not None:
            boxes.append(_box(tables, record, name))
        elif category == RACK:
            racks.append(Cuboid(pose(record), _size(record)))
    place = _triple(ego["translation"])
    return SceneTruth(sample, pose(ego) @ pose(calibration), place, tuple(boxes), tuple(racks))


def truth_from_record(record: SampleRecord) -> SceneTruth | None:
    """What an info file knows: no attributes and no racks. None without the poses."""
    if record.lidar2ego is None or record.ego2global is None:
        return None
    lidar2global = record.ego2global @ record.lidar2ego
    boxes = []
    for name, row in zip(record.names, record.boxes.tolist(), strict=True):
        x, y, z, length, width, height, yaw, vx, vy = row
        center = (lidar2global @ [x, y, z, 1.0])[:3]
        forward = lidar2global[:3, :3] @ [np.cos(yaw), np.sin(yaw), 0.0]
        velocity = lidar2global[:3, :3] @ [vx, vy, 0.0]
        boxes.append(
            GlobalBox(
                str(name),
                _triple(center),
                (length, width, height),
                float(np.arctan2(forward[1], forward[0])),
                (float(velocity[0]), float(velocity[1])),
            )
        )
    return SceneTruth(record.token, lidar2global, _triple(record.ego2global[:3, 3]), tuple(boxes))


def _box(tables: Tables, record: dict[str, Any], name: str) -> GlobalBox:
    attributes = record.get("attribute_tokens", ())
    if len(attributes) > 1:
        raise DataError(
            f"{tables.root / tables.version}: sample_annotation {record['token']!r:.60} has "
            f"{len(attributes)} attributes; one is accepted"
        )
    attribute = tables.table("attribute")[attributes[0]]["name"] if attributes else ""
    forward = pose(record)[:2, 0]
    vx, vy, _ = tables.velocity(record).tolist()
    points = int(record.get("num_lidar_pts", 1)) + int(record.get("num_radar_pts", 0))
    yaw = float(np.arctan2(forward[1], forward[0]))
    center = _triple(record["translation"])
    return GlobalBox(name, center, _size(record), yaw, (vx, vy), attribute, points)


def _size(record: dict[str, Any]) -> Triple:
    width, length, height = map(float, record["size"])
    return length, width, height


def _triple(values: Any) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def targets_of(
    record: SampleRecord, classes: Sequence[str], point_cloud_range: Sequence[float] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [M, 9] of known classes within the range, z moved to the bottom, and labels [M]."""
    names, boxes = record.names, record.boxes
    keep = np.array([name in classes for name in names], bool)
    if point_cloud_range is not None and len(boxes):
        low, high = np.split(np.asarray(point_cloud_range, float), 2)
        keep &= ((boxes[:, :2] > low[:2]) & (boxes[:, :2] < high[:2])).all(1)
    kept = np.nan_to_num(boxes.reshape(-1, 9)[keep]).astype(np.float32)
    kept[:, 2] -= kept[:, 5] / 2
    labels = [classes.index(name) for name, ok in zip(names, keep, strict=True) if ok]
    return kept, np.array(labels, np.int64)
