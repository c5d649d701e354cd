"""BEVFormer's info files: motion, clips for training, scenes for a test."""

import logging
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.config.old_sections import nuscenes_sections
from cupola.data.nuscenes import NuScenesDataset
from cupola.data.nuscenes_clips import clip_indices
from cupola.data.nuscenes_infos import info_samples
from cupola.errors import DataError
from cupola.registry import DATASETS, build
from cupola.structures.can_bus import can_bus_of_lidar
from models.bevformer.small import small_bevformer

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT",
           "CAM_BACK_RIGHT")  # fmt: skip
SCENES = ("a", "a", "a", "b", "b")
TEST = [
    {"type": "LoadMultiViewImageFromFiles", "to_float32": True},
    {"type": "NormalizeMultiviewImage", "mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": True},
    {"type": "MultiScaleFlipAug3D", "img_scale": (1600, 900), "transforms": [
        {"type": "RandomScaleImageMultiViewImage", "scales": [0.5]},
        {"type": "PadMultiViewImage", "size_divisor": 32},
        {"type": "CustomCollect3D", "keys": ["img"]},
    ]},
]  # fmt: skip
NAMES = ["car", "bus", "pedestrian"]


def infos(**changes: Any) -> dict[str, Any]:
    """Five samples of two scenes, as BEVFormer's converter writes them; the second drive turns."""
    camera = {
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.zeros(3),
        "cam_intrinsic": np.diag([100.0, 100.0, 1.0]),
    }
    made = []
    for i, scene in enumerate(SCENES):
        half = -0.1 * i
        info = {
            "token": f"t{i}",
            "prev": f"t{i - 1}" if i else "",
            "next": f"t{i + 1}",
            "frame_idx": i,
            "scene_token": scene,
            "timestamp": 10**15 + i * 500_000,
            "can_bus": np.arange(18.0) + i,
            "ego2global_translation": [600.0 + i, 1600.0, 0.0],
            "ego2global_rotation": [np.cos(half), 0.0, 0.0, np.sin(half)],
            "lidar2ego_translation": [0.9, 0.0, 1.8],
            "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
            "cams": {n: {**camera, "data_path": f"samples/{n}/{i}.png"} for n in CAMERAS},
            "gt_names": np.array(["car"]),
            "gt_boxes": np.array([[5.0, 8.0, 0.0, 2.0, 4.0, 1.5, 0.3]]),
            "gt_velocity": np.array([[1.0, 2.0]]),
            "valid_flag": np.array([True]),
            "num_lidar_pts": np.array([3]),
        }
        made.append({**info, **changes})
    return {"infos": made, "metadata": {"version": "v1.0-trainval"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps(infos()))
    for name in CAMERAS:
        (tmp_path / "samples" / name).mkdir(parents=True)
        for i in range(len(SCENES)):
            Image.new("RGB", (192, 128), (i * 10, 0, 0)).save(
                tmp_path / "samples" / name / f"{i}.png"
            )
    return tmp_path


def test_can_bus_has_the_pose_of_the_sample(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cupola"):
        samples = info_samples(root / "infos.pkl")
    assert "read as boxes of before MMDetection3D 1.0 (box_convention)" in caplog.text
    first, second = samples[0].can_bus, samples[1].can_bus
    np.testing.assert_allclose(second[:3], [601.0, 1600.0, 0.0])
    np.testing.assert_allclose(second[7:16], np.arange(8.0, 17.0))
    assert first[17] == 0 and second[17] == pytest.approx(360 - np.degrees(0.2))
    assert second[16] == pytest.approx(np.radians(second[17]))
    assert samples[0].scene == "a" and samples[0].boxes[0, 3:5].tolist() == [4.0, 2.0]
    new = info_samples(root / "infos.pkl", "1.x")
    assert new[0].boxes[0, 3:5].tolist() == [2.0, 4.0]


def test_a_pose_of_the_lidar_tells_the_heading_of_the_vehicle() -> None:
    still = can_bus_of_lidar(np.eye(4))
    assert still[17] == pytest.approx(90) and still[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(still[3:7], [0.5**0.5, 0, 0, 0.5**0.5])


def test_clips_leave_one_earlier_frame_out_and_know_their_scenes(root: Path) -> None:
    for seed in range(8):
        chosen = clip_indices(4, 3, np.random.default_rng(seed))
        assert len(chosen) == 3 and chosen == sorted(chosen) and chosen[-1] == 4
        assert set(chosen) < {1, 2, 3, 4}
    assert clip_indices(0, 3, np.random.default_rng(0)) == [0, 0, 0]
    dataset = NuScenesDataset(root, "infos.pkl", pipeline=TEST, queue_length=3)
    clip = dataset[4]
    assert clip["images"].shape == (3, 6, 3, 64, 96)
    assert clip["lidar2img"].shape == (3, 6, 4, 4) and clip["can_bus"].shape == (3, 18)
    assert clip["lidar2img"][0, 0, 0, 0] == 50
    scenes = [SCENES[int(each) - 600] for each in clip["can_bus"][:, 0]]
    wanted = [0.0, *(float(a == b) for a, b in pairwise(scenes))]
    assert clip["prev_exists"].tolist() == wanted and clip["token"] == "t4"
    dataset.set_epoch(1)
    others = {tuple(dataset.set_epoch(e) or dataset[4]["can_bus"][:, 0].tolist()) for e in range(9)}
    assert len(others) > 1


def test_clips_of_stream_petr_hold_every_frame_s_truth(root: Path) -> None:
    settings = {"pipeline": TEST, "queue_length": 3, "collect_keys": ["ego_pose", "img"]}
    dataset = NuScenesDataset(root, "infos.pkl", **settings)
    clip = dataset[4]
    assert clip["ego_pose"][:, 0, 3].floor().tolist() == [602, 603, 604]
    assert clip["timestamp"].diff().tolist() == [0.5, 0.5]
    assert clip["extrinsics"].shape == clip["intrinsics"].shape == (3, 6, 4, 4)
    assert clip["prev_exists"].tolist() == [0, 0, 1] and len(clip["boxes"]) == 3
    (targets,) = dataset.collate([clip])["targets"]
    assert [len(each["labels"]) for each in targets] == [len(each) for each in clip["boxes"]]
    alone = NuScenesDataset(root, "infos.pkl", **{**settings, "queue_length": 1})
    assert alone.sequences is None and "prev_exists" not in alone[4]
    assert alone[4]["timestamp"] == clip["timestamp"][2]
    spread = NuScenesDataset(root, "infos.pkl", random_length=1, **settings)
    places = set()
    for epoch in range(9):
        spread.set_epoch(epoch)
        places.add(tuple(spread[4]["ego_pose"][:, 0, 3].floor().tolist()))
    assert places == {(601, 602, 604), (601, 603, 604), (602, 603, 604)}


def test_scenes_are_sequences_in_a_test(root: Path) -> None:
    dataset = NuScenesDataset(root, "infos.pkl", pipeline=TEST, test_mode=True, bev_size=(50, 50))
    assert dataset.sequences == [[0, 1, 2], [3, 4]]
    assert [dataset[i]["prev_exists"].item() for i in range(5)] == [0, 1, 1, 0, 1]
    assert dataset[3]["stream"] == "b"
    batch = dataset.collate([dataset[0], dataset[3]])
    assert batch["can_bus"].shape == (2, 18) and batch["streams"] == ["a", "b"]


def test_a_published_config_trains_a_step(root: Path) -> None:
    train = {"type": "CustomNuScenesDataset", "data_root": str(root), "ann_file": "infos.pkl",
             "pipeline": TEST, "classes": NAMES, "queue_length": 3, "bev_size": (10, 8),
             "use_valid_flag": True, "box_type_3d": "LiDAR", "test_mode": False,
             "modality": {"use_camera": True}}  # fmt: skip
    cfg = nuscenes_sections({"data": {"samples_per_gpu": 1, "train": train}, "class_names": NAMES})
    dataset = DATASETS.build(cfg["train_dataloader"]["dataset"])
    batch = dataset.collate([dataset[2]])
    torch.manual_seed(0)
    model = build(small_bevformer()).train()
    losses = model.loss(batch)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert model.pts_bbox_head.bev_embedding.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"can_bus": np.zeros(4)}, "can_bus"),
        ({"can_bus": np.full(18, np.nan)}, "is not what BEVFormer writes"),
        ({"ego2global_rotation": [9.0, 0, 0, 0]}, "is not what BEVFormer writes"),
        ({"ego2global_rotation": None}, "ego2global_rotation is missing"),
        ({"can_bus": None}, "clips need info files as BEVFormer writes them"),
        ({"scene_token": None}, "has no can_bus with a scene_token"),
    ],
)
def test_what_is_wrong_is_named(root: Path, changes: dict[str, Any], message: str) -> None:
    (root / "infos.pkl").write_bytes(pickle.dumps(infos(**changes)))
    with pytest.raises(DataError, match=message):
        NuScenesDataset(root, "infos.pkl", pipeline=TEST, queue_length=2)[1]


def test_one_scale_only(root: Path) -> None:
    steps = [{"type": "RandomScaleImageMultiViewImage", "scales": [0.5, 1.0]}]
    with pytest.raises(DataError, match="RandomScaleImageMultiViewImage needs one scale"):
        NuScenesDataset(root, "infos.pkl", pipeline=steps)
