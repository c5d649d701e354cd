"""Training configs of WangYueFt/detr3d, alone and with the sections of a newer base."""

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.config.old_sections import nuscenes_sections
from cupola.data.driving.tables import write_scenes
from cupola.data.multiview_pipeline import read_pipeline
from cupola.data.nuscenes_tables import Tables
from cupola.errors import DataError
from cupola.runtime.published import bundle_config
from cupola.runtime.training_config import class_names, pipeline_steps
from cupola.train.trainer import Trainer
from cupola.train.version2 import to_version_3
from data.test_nuscenes import infos
from data.test_nuscenes_sweeps import STEP, swept_infos
from models.detr3d.small import small_config
from models.petr.small import small_petr
from models.stream_petr.small import small_stream

NAMES = ["truck", "car", "pedestrian"]
PIPELINE = [
    {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
    {"type": "LoadMultiViewImageFromFiles", "to_float32": True},
    {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
    {"type": "ObjectRangeFilter", "point_cloud_range": [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]},
    {"type": "ObjectNameFilter", "classes": NAMES},
    {"type": "NormalizeMultiviewImage", "mean": [1, 2, 3], "std": [1, 1, 1], "to_rgb": False},
    {"type": "PadMultiViewImage", "size_divisor": 32},
    {"type": "DefaultFormatBundle3D", "class_names": NAMES},
    {"type": "Collect3D", "keys": ["gt_bboxes_3d", "gt_labels_3d", "img"]},
]


def config(root: str = "data/nuscenes/") -> dict[str, Any]:
    own = {"type": "CustomNuScenesDataset", "pipeline": PIPELINE, "classes": NAMES}
    train = {**own, "data_root": root, "ann_file": root + "nuscenes_infos_train.pkl"}
    return {
        "model": {**small_config(), "type": "Detr3D"},
        "class_names": NAMES,
        "data": {
            "samples_per_gpu": 1,
            "workers_per_gpu": 0,
            "train": {**train, "use_valid_flag": True, "box_type_3d": "LiDAR"},
            "val": own,
            "test": own,
        },
        "optimizer": {
            "type": "AdamW",
            "lr": 2e-4,
            "paramwise_cfg": {"custom_keys": {"img_backbone": {"lr_mult": 0.1}}},
            "weight_decay": 0.01,
        },
        "optimizer_config": {"grad_clip": {"max_norm": 35, "norm_type": 2}},
        "lr_config": {
            "policy": "CosineAnnealing",
            "warmup": "linear",
            "warmup_iters": 500,
            "warmup_ratio": 1 / 3,
            "min_lr_ratio": 1e-3,
        },
        "total_epochs": 24,
        "runner": {"type": "EpochBasedRunner", "max_epochs": 2},
        "evaluation": {"interval": 2},
    }


def newer_base() -> dict[str, Any]:
    names = sorted(NAMES)
    dataset = {"type": "NuScenesDataset", "metainfo": {"classes": names}, "pipeline": []}
    return {
        "metainfo": {"classes": names},
        "train_dataloader": {"batch_size": 4, "dataset": dataset},
        "val_dataloader": {"batch_size": 1, "dataset": {**dataset, "ann_file": "own_val.pkl"}},
        "test_dataloader": {"batch_size": 1, "dataset": dataset},
        "val_evaluator": {"type": "NuScenesMetric", "ann_file": "x"},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}},
        "param_scheduler": [],
        "train_cfg": {"max_epochs": 99},
    }


def test_what_the_file_says_beats_a_newer_base() -> None:
    cfg = {**newer_base(), **config()}
    assert list(class_names(cfg)) == NAMES
    assert {step["type"] for step in pipeline_steps(cfg)} > {"PadMultiViewImage"}
    assert bundle_config(cfg, "x")["labels"] == NAMES
    del cfg["data"]["test"]["classes"]
    assert list(class_names(cfg)) == NAMES
    made = to_version_3(nuscenes_sections(cfg))
    assert made["train_dataloader"]["batch_size"] == 1
    train, val = (made[f"{split}_dataloader"]["dataset"] for split in ("train", "val"))
    assert train["metainfo"] == val["metainfo"] == {"classes": NAMES}
    assert val["ann_file"] == "own_val.pkl"
    assert val["test_mode"] and not train.get("test_mode")
    assert val["data_root"] == train["data_root"] == "data/nuscenes/"
    assert made["train_cfg"] == {"max_epochs": 2, "val_interval": 2}
    assert made["optim_wrapper"]["clip_grad"]["max_norm"] == 35
    assert made["optim_wrapper"]["paramwise_cfg"]["custom_keys"]
    warmup, cosine = made["param_scheduler"]
    assert (warmup["end"], warmup["by_epoch"]) == (501, False)  # the step after its last one
    assert cosine["eta_min_ratio"] == 1e-3


def test_newer_configs_and_other_datasets_stay_as_they_are() -> None:
    assert nuscenes_sections(newer_base()) == newer_base()
    other = {"data": {"train": {"type": "CocoDataset"}}}
    assert nuscenes_sections(other) == other


def test_a_wrapped_dataset() -> None:
    cfg = config()
    cfg["data"]["train"] = {"type": "CBGSDataset", "dataset": cfg["data"]["train"]}
    made = nuscenes_sections(cfg)
    train = made["train_dataloader"]["dataset"]
    assert train["type"] == "CBGSDataset"
    assert train["dataset"]["type"] == "NuScenesDataset"
    assert made["val_dataloader"]["dataset"]["data_root"] == "data/nuscenes/"


def test_it_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "data"
    write_scenes(root, count=1, frames=1, size=(60, 100))
    content, _ = infos(Tables(root, "v1.0-mini"))
    for split in ("train", "val"):
        (root / f"nuscenes_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    with caplog.at_level(logging.WARNING, "cupola"):
        trainer = Trainer(config(f"{root}/"), tmp_path / "run", quiet=True)
    assert "LoadPointsFromFile is skipped" in caplog.text
    assert trainer.stream.dataset.names == tuple(NAMES)
    trainer.run()
    assert trainer.step == 2


CROP = {"resize_lim": (0.5, 0.7), "final_dim": (32, 48), "bot_pct_lim": (0.0, 0.0),
        "rot_lim": (0.0, 0.0), "H": 60, "W": 100, "rand_flip": True}  # fmt: skip
PETR_PIPELINE = [
    *PIPELINE[1:5],
    {"type": "ResizeCropFlipImage", "data_aug_conf": CROP, "training": True},
    {"type": "GlobalRotScaleTransImage", "rot_range": [-0.3925, 0.3925], "reverse_angle": True,
     "translation_std": [0, 0, 0], "scale_ratio_range": [0.95, 1.05], "training": True},
    *PIPELINE[5:],
]  # fmt: skip


def test_petr_trains_with_its_own_pipeline(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_scenes(root, count=1, frames=1, size=(60, 100))
    content, _ = infos(Tables(root, "v1.0-mini"))
    for split in ("train", "val"):
        (root / f"nuscenes_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    cfg = {**config(f"{root}/"), "model": small_petr("Petr3D")}
    cfg["data"]["train"]["pipeline"] = PETR_PIPELINE
    test = [{**PETR_PIPELINE[4], "training": False}, *PIPELINE[5:]]
    cfg["data"]["val"] = cfg["data"]["test"] = {**cfg["data"]["val"], "pipeline": test}
    trainer = Trainer(cfg, tmp_path / "run", quiet=True)
    assert trainer.stream.dataset[0]["images"].shape == (6, 3, 32, 64)
    trainer.run()
    assert trainer.step == 2


def test_petrv2_trains_on_two_moments(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_scenes(root, count=1, frames=2, size=(30, 50))
    content = swept_infos(Tables(root, "v1.0-mini"))
    for split in ("train", "val"):
        (root / f"nuscenes_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    head = {"with_time": True, "with_fpe": True, "with_multi": True}
    cfg = {**config(f"{root}/"), "model": small_petr("Petr3D", "PETRv2DNHead", **head)}
    sweeps = {**STEP, "pad_empty_sweeps": True}
    crop = {**PETR_PIPELINE[4], "data_aug_conf": {**CROP, "H": 30, "W": 50}}
    moved = [sweeps, crop, *PETR_PIPELINE[5:]]
    cfg["data"]["train"]["pipeline"] = [{**sweeps, "test_mode": False}, *moved[1:]]
    test = [sweeps, {**crop, "training": False}, *PIPELINE[5:]]
    cfg["data"]["val"] = cfg["data"]["test"] = {**cfg["data"]["val"], "pipeline": test}
    cfg["runner"] = {"type": "IterBasedRunner", "max_iters": 2}
    cfg["model"]["pretrained"] = {"img": "torchvision://resnet50"}
    trainer = Trainer(cfg, tmp_path / "run", quiet=True)
    assert trainer.model.img_backbone.init_cfg["checkpoint"] == "torchvision://resnet50"
    sample = trainer.stream.dataset[1]
    assert sample["images"].shape == (12, 3, 32, 64) and sample["ages"].shape == (12,)
    trainer.run()
    assert trainer.step == 2
    batch = trainer.stream.dataset.collate([sample])
    assert len(trainer.model.eval().predict({**batch, "pixels": batch["pixels"]})) == 1


def stream_config(root: Path, frames: int) -> dict[str, Any]:
    """As StreamPETR publishes it, with its info files; one scene of `frames` frames."""
    write_scenes(root, count=1, frames=frames, size=(60, 100))
    content, _ = infos(Tables(root, "v1.0-mini"))
    for at, info in enumerate(content["infos"]):
        info |= {"scene_token": "scene", "timestamp": 1_500_000_000_000_000 + 500_000 * at}
        info |= {
            "lidar2ego_translation": [0.9, 0.0, 1.8],
            "lidar2ego_rotation": [0.5**0.5, 0.0, 0.0, 0.5**0.5],
            "ego2global_translation": [600.0 + 2 * at, 1600.0, 0.0],
            "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
        }
    for split in ("train", "val"):
        (root / f"nuscenes_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    cfg = {**config(f"{root}/"), "model": {**small_stream(), "type": "Petr3D"}}
    keys = ["lidar2img", "intrinsics", "extrinsics", "timestamp", "img_timestamp", "ego_pose"]
    rotated = [
        {**s, "type": "ResizeCropFlipRotImage"} if s["type"] == "ResizeCropFlipImage" else s
        for s in PETR_PIPELINE
    ]
    cfg["data"]["train"] |= {
        "pipeline": rotated, "collect_keys": [*keys, "img", "prev_exists", "img_metas"],
        "seq_mode": True, "seq_split_num": 2, "num_frame_losses": 1, "queue_length": 1,
        "filter_empty_gt": False,
    }  # fmt: skip
    test = [{**rotated[4], "training": False}, *PIPELINE[5:]]
    own = {**cfg["data"]["val"], "pipeline": test, "collect_keys": [*keys, "img"]}
    cfg["data"] |= {"val": own, "test": own, "samples_per_gpu": 2}
    cfg["data"]["shuffler_sampler"] = {"type": "InfiniteGroupEachSampleInBatchSampler"}
    cfg["runner"] = {"type": "IterBasedRunner", "max_iters": 3}
    cfg["model"]["num_frame_losses"] = 1
    return cfg


def test_stream_petr_trains_with_its_own_sequences(tmp_path: Path) -> None:
    trainer = Trainer(stream_config(tmp_path / "data", 4), tmp_path / "run", quiet=True)
    data = trainer.stream.dataset
    assert data.sequences == [[0, 1], [2, 3]]
    samples = [data[at] for at in range(3)]
    assert [float(s["prev_exists"]) for s in samples] == [0, 1, 0]
    assert float(samples[1]["timestamp"] - samples[0]["timestamp"]) == 0.5
    for sample in samples:
        joined = sample["intrinsics"] @ sample["extrinsics"]
        torch.testing.assert_close(joined, sample["lidar2img"], rtol=1e-4, atol=1e-2)
    # A point that does not move: where both frames see it, whatever was drawn for each of them.
    fixed = torch.tensor([604.0, 1605.0, 1.0, 1.0])
    seen = [torch.linalg.inv(s["ego_pose"].double()) @ fixed.double() for s in samples[:2]]
    scales = [s["ego_pose"][:3, 0].norm() for s in samples[:2]]
    plain = [point[:3] * scale for point, scale in zip(seen, scales, strict=True)]
    lidar = torch.tensor([0.9, 0.0, 1.8]).double()
    for at, point in enumerate(plain):
        away = torch.tensor([604.0 - 600 - 2 * at, 5.0, 1.0]).double() - lidar
        assert abs(point.norm() - away.norm()) < 1e-3
    trainer.run()
    assert trainer.step == 3 and trainer.model.training_state is not None


def test_sequences_need_poses(tmp_path: Path) -> None:
    cfg = stream_config(tmp_path / "data", 2)
    file = tmp_path / "data/nuscenes_infos_train.pkl"
    content = pickle.loads(file.read_bytes())
    for info in content["infos"]:
        del info["ego2global_rotation"]
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"no timestamp, lidar2ego or ego2global: .*StreamPETR"):
        Trainer(cfg, tmp_path / "run", quiet=True).stream.dataset[0]


def test_a_step_that_moves_boxes_is_not_skipped() -> None:
    with pytest.raises(DataError, match="unknown step 'GlobalRotScaleTrans'"):
        read_pipeline([{"type": "GlobalRotScaleTrans"}])
