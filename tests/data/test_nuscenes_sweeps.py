"""Earlier images of the cameras in PETRv2's info files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupola.data.driving.tables import write_scenes
from cupola.data.nuscenes import NuScenesDataset
from cupola.data.nuscenes_infos import info_samples
from cupola.data.nuscenes_sweeps import SweepChoice
from cupola.data.nuscenes_tables import Tables
from cupola.errors import DataError
from data.test_nuscenes import infos

STEP = {"type": "LoadMultiViewImageFromMultiSweepsFiles", "sweeps_num": 1, "sweep_range": [3, 27]}
GAP = 500_000  # microseconds between the frames


def swept_infos(tables: Tables) -> dict[str, Any]:
    """One scene, as generate_sweep_pkl.py writes it; only key frames are among the sweeps."""
    content, _ = infos(tables)
    sensors = [tables._sensor2global(tables._data[r.token]["LIDAR_TOP"]) for r in tables.samples()]
    for at, info in enumerate(content["infos"]):
        info["timestamp"] = 1_500_000_000_000_000 + GAP * at
        for number, camera in enumerate(info["cams"].values()):
            camera["timestamp"] = info["timestamp"] - 1000 * number
        info["sweeps"] = [
            {
                view.name: {
                    "data_path": f"./data/nuscenes/{view.file}",
                    "timestamp": content["infos"][before]["cams"][view.name]["timestamp"],
                    "lidar2img": (
                        view.lidar2img @ np.linalg.inv(sensors[before]) @ sensors[at]
                    ).astype(np.float32),
                }
                for view in tables.samples()[before].cameras
            }
            for before in reversed(range(at))
        ]
    return content


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    write_scenes(folder, count=1, frames=3, size=(30, 50))
    content = swept_infos(Tables(folder, "v1.0-mini"))
    (folder / "infos.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return folder


def dataset(root: Path, file: str = "infos.pkl", **step: Any) -> NuScenesDataset:
    images = {"mean": (0, 0, 0)}
    return NuScenesDataset(
        root, file, version="v1.0-mini", pipeline=[{**STEP, **step}], images=images
    )


def test_samples_hold_both_moments(root: Path) -> None:
    data = dataset(root, pad_empty_sweeps=True)
    sample = data[2]
    assert sample["images"].shape[0] == sample["lidar2img"].shape[0] == 12
    own = [round(0.001 * number, 6) for number in range(6)]
    # The 14th sweep of the published range is asked for; the earliest of the two is the nearest.
    np.testing.assert_allclose(sample["ages"], [*own, *(age + 1 for age in own)], atol=1e-6)
    assert (sample["images"][6:] == data[0]["images"][:6]).all()
    # A point at rest is seen by the earlier cameras where these saw it then.
    tables = Tables(root, "v1.0-mini")
    lidars = [tables._sensor2global(tables._data[r.token]["LIDAR_TOP"]) for r in tables.samples()]
    point = np.array([6.0, 3.0, 1.0, 1.0])
    then = np.linalg.inv(lidars[0]) @ lidars[2] @ point
    seen = sample["lidar2img"][6:].numpy() @ point
    np.testing.assert_allclose(seen, data[0]["lidar2img"][:6].numpy() @ then, rtol=1e-4, atol=1e-2)
    assert data.collate([sample, data[1]])["ages"].shape == (2, 12)


def test_a_drive_s_first_sample_is_paired_with_itself(root: Path) -> None:
    sample = dataset(root, pad_empty_sweeps=True)[0]
    assert (sample["images"][:6] == sample["images"][6:]).all()
    np.testing.assert_allclose(sample["ages"][6:] - sample["ages"][:6], 15 * 0.083, rtol=1e-6)
    with pytest.raises(DataError, match=r"has no sweeps; pad_empty_sweeps=True"):
        dataset(root)[0]


@pytest.mark.parametrize(
    ("step", "count", "expected"),
    [
        ({}, 30, {14}),
        ({}, 10, {9}),
        ({}, 1, {0}),
        ({"test_mode": False}, 30, set(range(3, 27))),
        ({"test_mode": False}, 6, {3, 4, 5}),
        ({"test_mode": False}, 2, {1}),
        ({"test_mode": False, "prob": 0.0}, 30, {14}),
        ({"sweeps_id": [5]}, 30, {5}),
        ({"sweeps_id": [5], "test_mode": False}, 3, {2}),
    ],
)
def test_which_sweep_is_taken(step: dict, count: int, expected: set[int]) -> None:
    choice = SweepChoice.from_step({**STEP, **step})
    rng = np.random.default_rng(0)
    assert {choice.number(count, rng) for _ in range(400)} == expected


def test_an_incomplete_sweep_is_replaced_by_the_one_after_it(root: Path) -> None:
    content = pickle.loads((root / "infos.pkl").read_bytes())
    del content["infos"][2]["sweeps"][1]["CAM_BACK"]
    (root / "holes.pkl").write_bytes(pickle.dumps(content))
    assert float(dataset(root, "holes.pkl")[2]["ages"][6]) == pytest.approx(0.5)
    del content["infos"][2]["sweeps"][0]["CAM_BACK"]
    (root / "holes.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"sweeps\[1\] has no \['CAM_BACK'\]"):
        dataset(root, "holes.pkl")[2]


def test_other_sweeps_and_missing_times(root: Path) -> None:
    content = pickle.loads((root / "infos.pkl").read_bytes())
    lidar = {"data_path": "sweeps/LIDAR_TOP/x.bin", "type": "lidar", "timestamp": 1}
    content["infos"][1]["sweeps"] = [lidar]
    del content["infos"][2]["cams"]["CAM_BACK"]["timestamp"]
    (root / "other.pkl").write_bytes(pickle.dumps(content))
    assert len(info_samples(root / "other.pkl")[1].sweeps) == 1  # not read before it is needed
    data = dataset(root, "other.pkl")
    with pytest.raises(DataError, match=r"sweeps\[0\]\.data_path is a sweep of the lidar.*30f"):
        data[1]
    with pytest.raises(DataError, match="no timestamp of its own or of a camera"):
        data[2]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"sweeps_num": 2}, "needs sweeps_num=1.*got 2"),
        ({"sweep_range": [9, 3]}, r"sweep_range should be two growing numbers, got \[9, 3\]"),
    ],
)
def test_settings_that_are_refused(step: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SweepChoice.from_step({**STEP, **step})
