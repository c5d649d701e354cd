"""Reads nuScenes tables, each when it is first needed."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cupola.data.can_bus_files import signals_at
from cupola.data.nuscenes_samples import CameraView, SampleRecord, pinhole, rigid
from cupola.errors import DataError
from cupola.files import content_of, read_json
from cupola.structures.can_bus import can_bus_of

Array = NDArray[np.float64]
Record = dict[str, Any]

# nuScenes category -> detection class; other categories are not detected.
DETECTION_NAMES = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
DETECTED = frozenset(DETECTION_NAMES.values())
# The frame of the boxes: nuScenes' lidar, or the joined point cloud of T4 data sets.
LIDARS = ("LIDAR_TOP", "LIDAR_CONCAT")
MAX_GAP = 1.5  # seconds between annotations; beyond, a velocity is unknown, as in the devkit


def rotation(quaternion: Sequence[float]) -> Rotation:
    """The rotation of a nuScenes quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return Rotation.from_quat([x, y, z, w])


def detection_name(category: str) -> str | None:
    """The detection class of a category, which may be named like the class; None without one."""
    return DETECTION_NAMES.get(category, category if category in DETECTED else None)


def pose(record: Record) -> Array:
    """[4, 4] of a calibrated_sensor or ego_pose record: its own frame -> its parent frame."""
    place = np.asarray(record["translation"], float)
    return rigid(rotation(record["rotation"]).as_matrix(), place)


class Tables:
    """The tables of one version under a nuScenes root.

    Samples have the objects with a lidar or radar point; without `use_valid_flag`, those with a
    lidar point.
    """

    def __init__(
        self, root: str | Path, version: str = "v1.0-trainval", use_valid_flag: bool = True
    ) -> None:
        self.root, self.version = Path(root), version
        self.use_valid_flag = use_valid_flag
        if not (self.root / version).is_dir():
            raise DataError(f"{self.root / version}: folder of nuScenes tables not found")
        self._read: dict[str, dict[str, Record]] = {}

    def table(self, name: str) -> dict[str, Record]:
        """All records of a table by token; read once."""
        if name not in self._read:
            path = self.root / self.version / f"{name}.json"
            with content_of(path, "a nuScenes table"):
                self._read[name] = {record["token"]: record for record in read_json(path)}
        return self._read[name]

    @cached_property
    def _data(self) -> dict[str, dict[str, Record]]:
        """sample -> channel -> the key frame's sample_data record."""
        found: dict[str, dict[str, Record]] = {}
        sensors, calibrations = self.table("sensor"), self.table("calibrated_sensor")
        for record in self.table("sample_data").values():
            if record["is_key_frame"]:
                sensor = calibrations[record["calibrated_sensor_token"]]["sensor_token"]
                channel = sensors[sensor]["channel"]
                found.setdefault(record["sample_token"], {})[channel] = record
        return found

    @cached_property
    def _annotations(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.table("sample_annotation").values():
            found.setdefault(record["sample_token"], []).append(record)
        return found

    def samples(self, scenes: Sequence[str] | None = None) -> "LazySamples":
        """All samples in the order of their scenes, or those of the named scenes."""
        with self._content():
            known = {record["name"]: token for token, record in self.table("scene").items()}
            missing = set(scenes or ()) - known.keys()
            if missing:
                raise DataError(f"{self.root}: no scenes {sorted(missing)}")
            wanted = {known[name] for name in (scenes or known)}
            samples = self.table("sample").items()
            tokens = [t for t, record in samples if record["scene_token"] in wanted]
        return LazySamples(self, tokens)

    def sample(self, sample: str) -> SampleRecord:
        """One sample, in its lidar's frame. Raises DataError, as `samples`, for damaged tables."""
        with self._content():
            return self._sample(sample)

    def moment(self, sample: str) -> tuple[str, float]:
        """The scene of a sample, and its time in seconds."""
        with self._content():
            record = self.table("sample")[sample]
            return str(record["scene_token"]), float(record["timestamp"]) * 1e-6

    def _content(self) -> AbstractContextManager[None]:
        return content_of(self.root / self.version, "tables of nuScenes")

    def _sample(self, sample: str) -> SampleRecord:
        data = self._data.get(sample, {})
        lidar = self.lidar(sample)
        ego2global = pose(self.table("ego_pose")[lidar["ego_pose_token"]])
        lidar2ego = pose(self.table("calibrated_sensor")[lidar["calibrated_sensor_token"]])
        lidar2global = ego2global @ lidar2ego
        cameras = tuple(
            self._view(channel, record, lidar2global)
            for channel, record in data.items()
            if channel.startswith("CAM")
        )
        names, boxes = [], []
        for record in self.annotations(sample):
            name = detection_name(self.category(record))
            if name is not None and self._is_kept(record):
                names.append(name)
                boxes.append(self._box(record, lidar2global))
        array = np.array(boxes, float).reshape(-1, 9)
        scene = str(self.table("sample")[sample].get("scene_token") or "")
        return SampleRecord(
            sample,
            cameras,
            names,
            array,
            lidar2ego,
            ego2global,
            scene,
            self._can_bus(sample, lidar),
        )

    def _can_bus(self, sample: str, lidar: Record) -> Array:
        """BEVFormer's numbers; what the CAN bus would tell is 0 for scenes without its files."""
        about = self.table("sample")[sample]
        scene = self.table("scene").get(str(about.get("scene_token")), {})
        known = signals_at(self.root, str(scene.get("name", "")), float(about.get("timestamp", 0)))
        ego = self.table("ego_pose")[lidar["ego_pose_token"]]
        return can_bus_of(ego["translation"], ego["rotation"], known)

    def annotations(self, sample: str) -> list[Record]:
        """The sample_annotation records of a sample, in the table's order."""
        return self._annotations.get(sample, [])

    def category(self, annotation: Record) -> str:
        """The name of an annotation's category."""
        instance = self.table("instance")[annotation["instance_token"]]
        return str(self.table("category")[instance["category_token"]]["name"])

    def lidar(self, sample: str) -> Record:
        """The key frame's sample_data record of the lidar; DataError if there is none."""
        data = self._data.get(sample, {})
        for channel in LIDARS:
            if channel in data:
                return data[channel]
        raise DataError(
            f"{self.root / self.version}: sample {sample!r:.60} has no {' or '.join(LIDARS)}, only "
            f"{sorted(data)}"
        )

    def _is_kept(self, record: Record) -> bool:
        points = record.get("num_lidar_pts", 1)
        if self.use_valid_flag:
            points += record.get("num_radar_pts", 0)
        return bool(points > 0)

    def _sensor2global(self, data: Record) -> Array:
        calibration = self.table("calibrated_sensor")[data["calibrated_sensor_token"]]
        return pose(self.table("ego_pose")[data["ego_pose_token"]]) @ pose(calibration)

    def _view(self, channel: str, data: Record, lidar2global: Array) -> CameraView:
        calibration = self.table("calibrated_sensor")[data["calibrated_sensor_token"]]
        lidar2cam = np.linalg.inv(self._sensor2global(data)) @ lidar2global
        intrinsic = np.asarray(calibration["camera_intrinsic"], float)
        return CameraView(channel, data["filename"], pinhole(intrinsic, lidar2cam))

    def _box(self, record: Record, lidar2global: Array) -> Array:
        """(x, y, z of the center, l, w, h, yaw, vx, vy) in the lidar's frame."""
        inverse = np.linalg.inv(lidar2global)
        center = inverse[:3, :3] @ np.asarray(record["translation"], float) + inverse[:3, 3]
        forward = inverse[:3, :3] @ rotation(record["rotation"]).apply([1.0, 0.0, 0.0])
        velocity = inverse[:3, :3] @ self.velocity(record)
        width, length, height = record["size"]
        yaw = np.arctan2(forward[1], forward[0])
        return np.array([*center, length, width, height, yaw, *velocity[:2]])

    def velocity(self, record: Record) -> Array:
        """[3], m/s in the global frame, from the annotations before and after; NaN if unknown."""
        annotations, samples = self.table("sample_annotation"), self.table("sample")
        before = annotations[record["prev"]] if record["prev"] else record
        after = annotations[record["next"]] if record["next"] else record
        stamps = [samples[each["sample_token"]]["timestamp"] * 1e-6 for each in (before, after)]
        seconds = stamps[1] - stamps[0]
        limit = 2 * MAX_GAP if before is not record and after is not record else MAX_GAP
        if before is after or seconds == 0 or seconds > limit:
            return np.full(3, np.nan)
        places = [np.asarray(each["translation"], float) for each in (before, after)]
        return np.asarray((places[1] - places[0]) / seconds)


class LazySamples(Sequence[SampleRecord]):
    """Samples of the tables, each created on access."""

    def __init__(self, tables: Tables, tokens: Sequence[str]) -> None:
        self.tables, self.tokens = tables, tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return LazySamples(self.tables, self.tokens[index])
        return self.tables.sample(self.tokens[index])
