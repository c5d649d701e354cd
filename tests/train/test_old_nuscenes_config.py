"""Training configs of WangYueFt/detr3d, alone and with the sections of a newer base."""

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

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
from models.detr3d.small import small_config
from models.petr.small import small_petr

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
    assert (warmup["end"], warmup["by_epoch"]) == (500, False)
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


def test_a_step_that_moves_boxes_is_not_skipped() -> None:
    with pytest.raises(DataError, match="unknown step 'GlobalRotScaleTrans'"):
        read_pipeline([{"type": "GlobalRotScaleTrans"}])
