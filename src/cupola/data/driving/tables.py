"""Writes generated scenes as nuScenes tables and images, in the format of nuscenes-devkit.

In each scene the ego drives along a street, one sample every half second. There are no point
clouds: `num_lidar_pts` is the number of visible pixels of an object in all cameras.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from cupola.data.driving.agents import CLASS_NAMES, Agent
from cupola.data.driving.drive import PERIOD, Drive, token
from cupola.data.driving.render import View, render
from cupola.data.driving.rig import CAMERA_NAMES, LIDAR_HEIGHT, Camera, camera_rig
from cupola.data.driving.scene import Scene, SceneStyle, make_scene

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "pedestrian.moving", "pedestrian.standing")
# The lidar in the ego's frame (x forward, y left): its x looks right, its y forward.
LIDAR_TURN = Rotation.from_euler("z", -90, degrees=True)
LIDAR_PLACE = np.array([0.94, 0.0, LIDAR_HEIGHT])
# Scene names of the devkit's own splits, so that its tools run on the result unchanged.
SPLIT_SCENES = (
    *("scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077"),
    *("scene-1094", "scene-1100", "scene-0103", "scene-0916"),
)
TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
    *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)


def _quaternion(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [float(w), float(x), float(y), float(z)]


class TableWriter:
    """Collects records of the thirteen tables; `save` writes them."""

    def __init__(self, folder: Path, version: str, size: tuple[int, int], quality: int) -> None:
        self.folder, self.version, self.size, self.quality = folder, version, size, quality
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._fixed_tables()

    def add(self, table: str, key: str, **record: Any) -> str:
        """Appends a record; returns its token."""
        self.tables[table].append({"token": key, **record})
        return key

    def _fixed_tables(self) -> None:
        for name in CATEGORIES.values():
            self.add("category", token("category", name), name=name, description="generated")
        for name in ATTRIBUTES:
            self.add("attribute", token("attribute", name), name=name, description="generated")
        for level, text in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1):
            self.add("visibility", str(level), level=text, description="generated")
        for channel in (*CAMERA_NAMES, "LIDAR_TOP"):
            kind = "camera" if channel in CAMERA_NAMES else "lidar"
            self.add("sensor", token("sensor", channel), channel=channel, modality=kind)

    def scene(self, drive: "Drive") -> None:
        """All samples of one scene."""
        self.add(
            "log",
            drive.key("log"),
            logfile=drive.name,
            vehicle="generated",
            date_captured="2026-01-01",
            location="nowhere",
        )
        for sensor in (*drive.rig, None):
            self._calibration(drive, sensor)
        for i in range(drive.frames):
            self._sample(drive, i)
        for index, agent in enumerate(drive.scene.agents):
            keys = drive.keys("annotation", index)
            self.add(
                "instance",
                drive.key("instance", index),
                nbr_annotations=len(keys),
                category_token=token("category", CATEGORIES[CLASS_NAMES[agent.label]]),
                first_annotation_token=keys[0],
                last_annotation_token=keys[-1],
            )
        samples = drive.keys("sample")
        self.add(
            "scene",
            drive.key(),
            name=drive.name,
            log_token=drive.key("log"),
            nbr_samples=drive.frames,
            first_sample_token=samples[0],
            last_sample_token=samples[-1],
            description="a generated street",
        )

    def _sample(self, drive: "Drive", i: int) -> None:
        """The images, ego pose and annotations of moment number `i`."""
        now, samples = drive.scene.after(i * PERIOD), drive.keys("sample")
        self.add(
            "sample",
            samples[i],
            timestamp=drive.stamp(i),
            scene_token=drive.key(),
            **_links(samples, i),
        )
        views = self._views(drive, i, now)
        self.add(
            "ego_pose",
            drive.key("pose", i),
            timestamp=drive.stamp(i),
            translation=drive.ego(i).tolist(),
            rotation=_quaternion(drive.turn),
        )
        visible = np.sum([view.visible(len(now.agents)) for view in views], axis=0)
        for index, agent in enumerate(now.agents):
            self._annotation(drive, i, index, agent, int(visible[index]))

    def _calibration(self, drive: "Drive", camera: Camera | None) -> None:
        channel = camera.name if camera else "LIDAR_TOP"
        place, turn = LIDAR_PLACE, LIDAR_TURN
        if camera:
            place = place + turn.apply(camera.position)
            turn = turn * Rotation.from_matrix(camera.rotation)
        self.add(
            "calibrated_sensor",
            drive.key("calibration", channel),
            sensor_token=token("sensor", channel),
            translation=place.tolist(),
            rotation=_quaternion(turn),
            camera_intrinsic=camera.intrinsic.tolist() if camera else [],
        )

    def _views(self, drive: "Drive", i: int, now: Scene) -> list[View]:
        """Renders and stores the images of one moment, and their sample_data records."""
        views = []
        for channel in (*CAMERA_NAMES, "LIDAR_TOP"):
            camera = next((each for each in drive.rig if each.name == channel), None)
            ending = "jpg" if camera else "pcd.bin"
            file = f"samples/{channel}/{drive.name}__{channel}__{drive.stamp(i)}.{ending}"
            if camera:
                views.append(render(now, camera, self.size))
                path = self.folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(views[-1].pixels).save(path, quality=self.quality)
            keys = drive.keys(channel)
            self.add(
                "sample_data",
                keys[i],
                sample_token=drive.key("sample", i),
                ego_pose_token=drive.key("pose", i),
                calibrated_sensor_token=drive.key("calibration", channel),
                timestamp=drive.stamp(i),
                fileformat=ending.split(".")[0],
                is_key_frame=True,
                height=self.size[0] if camera else 0,
                width=self.size[1] if camera else 0,
                filename=file,
                **_links(keys, i),
            )
        return views

    def _annotation(self, drive: "Drive", i: int, index: int, agent: Agent, pixels: int) -> None:
        keys = drive.keys("annotation", index)
        center = agent.position + np.array([0.0, 0.0, agent.size[2] / 2])
        place = drive.ego(i) + drive.turn.apply(LIDAR_PLACE + LIDAR_TURN.apply(center))
        yaw = drive.turn * LIDAR_TURN * Rotation.from_euler("z", agent.yaw)
        length, width, height = agent.size.tolist()
        attribute = _attribute(agent)
        self.add(
            "sample_annotation",
            keys[i],
            sample_token=drive.key("sample", i),
            instance_token=drive.key("instance", index),
            visibility_token="4" if pixels else "1",
            attribute_tokens=[token("attribute", attribute)] if attribute else [],
            translation=place.tolist(),
            size=[width, length, height],
            rotation=_quaternion(yaw),
            num_lidar_pts=pixels,
            num_radar_pts=0,
            **_links(keys, i),
        )

    def save(self) -> None:
        """Writes the tables and the one blank map that the devkit requires."""
        (self.folder / "maps").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(self.folder / "maps" / "blank.png")
        logs = [record["token"] for record in self.tables["log"]]
        self.add(
            "map",
            token("map"),
            category="semantic_prior",
            filename="maps/blank.png",
            log_tokens=logs,
        )
        folder = self.folder / self.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")


def _links(keys: Sequence[str], i: int) -> dict[str, str]:
    return {"prev": keys[i - 1] if i else "", "next": keys[i + 1] if i + 1 < len(keys) else ""}


def _attribute(agent: Agent) -> str:
    moving = float(np.hypot(*agent.velocity)) > 0
    name = CLASS_NAMES[agent.label]
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return "" if name == "traffic_cone" else f"vehicle.{'moving' if moving else 'parked'}"


def write_scenes(
    folder: Path,
    count: int = 10,
    frames: int = 8,
    size: tuple[int, int] = (180, 320),
    seed: int = 0,
    style: SceneStyle | None = None,
    version: str = "v1.0-mini",
    quality: int = 92,
) -> dict[str, int]:
    """Writes `count` scenes of `frames` samples as a nuScenes data set; returns its table sizes."""
    writer = TableWriter(folder, version, size, quality)
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        scene, rig = make_scene(rng, style), camera_rig(size, rng)
        name = SPLIT_SCENES[number] if number < len(SPLIT_SCENES) else f"scene-{2000 + number}"
        rng = np.random.default_rng((seed * 100_003 + number, 7))
        start = np.append(rng.uniform(300, 1500, 2), 0.0)
        turn = Rotation.from_euler("z", rng.uniform(-np.pi, np.pi))
        time = 1_500_000_000_000_000 + int(rng.integers(1 << 40))
        writer.scene(Drive(name, scene, rig, frames, start, turn, time))
    writer.save()
    return {name: len(records) for name, records in writer.tables.items()}
