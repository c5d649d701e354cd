"""Training configs of MMDetection 2.x: what each section becomes, and a run of one."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.config import Config
from cupola.errors import BuildError, DataError
from cupola.registry import DATASETS
from cupola.train.evaluation import build_metric
from cupola.train.recipe import train_recipe
from cupola.train.schedules import build_schedule, scheduled_rate
from cupola.train.trainer import Trainer
from cupola.train.version2 import to_version_3
from cupola.train.version2_pipeline import translated_pipeline
from train.parts import tiny_config

BGR = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "to_rgb": False}
TRAIN = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "img_scale": [(48, 64), (64, 64)], "multiscale_mode": "value"},
    {"type": "RandomFlip", "flip_ratio": 0.5},
    {"type": "Normalize", **BGR},
    {"type": "Pad", "size_divisor": 32},
    {"type": "DefaultFormatBundle"},
    {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]},
]
TEST = [
    {"type": "LoadImageFromFile"},
    {
        "type": "MultiScaleFlipAug",
        "img_scale": (64, 48),
        "flip": False,
        "transforms": [
            {"type": "Resize", "keep_ratio": True},
            {"type": "RandomFlip"},
            {"type": "Normalize", **BGR},
            {"type": "ImageToTensor", "keys": ["img"]},
        ],
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images; each has a cat, the last also a dog, and there is one without objects."""
    (tmp_path / "train").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (7, 48, 64, 3), np.uint8)
    for number in range(7):
        Image.fromarray(pixels[number]).save(tmp_path / f"train/{number}.png")
    size = {"width": 64, "height": 48}
    box = {"bbox": [5, 5, 20, 30], "area": 600, "iscrowd": 0}
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", **size} for n in range(7)],
        "annotations": [
            *({"id": n + 1, "image_id": n, "category_id": 1, **box} for n in range(6)),
            {"id": 7, "image_id": 5, "category_id": 2, **box},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "cats.json").write_text(json.dumps(content))
    return tmp_path


def old_config(folder: Path) -> dict[str, Any]:
    model = Config.load("src/cupola/configs/digits/detr_digits.py").to_dict()["model"]
    model["bbox_head"]["num_classes"] = 2
    model["neck"]["norm_cfg"] = None
    model.pop("training_groups")
    common = {
        "type": "CocoDataset",
        "ann_file": str(folder / "cats.json"),
        "img_prefix": str(folder / "train"),
        "classes": ("cat", "dog"),
    }
    test = {**common, "pipeline": TEST}
    return {
        "model": model,
        "data": {
            "samples_per_gpu": 2,
            "workers_per_gpu": 0,
            "train": {**common, "pipeline": TRAIN},
            "val": test,
            "test": test,
        },
        "optimizer": {
            "type": "AdamW",
            "lr": 1e-4,
            "weight_decay": 1e-4,
            "paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 0.1}}},
        },
        "optimizer_config": {"grad_clip": {"max_norm": 0.1, "norm_type": 2}},
        "lr_config": {"policy": "step", "warmup": "linear", "warmup_iters": 2, "step": [1]},
        "runner": {"type": "EpochBasedRunner", "max_epochs": 2},
        "evaluation": {"interval": 2, "metric": "bbox", "save_best": "bbox_mAP_50"},
        "checkpoint_config": {"interval": 1},
        "log_config": {"interval": 1, "hooks": [{"type": "TextLoggerHook"}]},
        "custom_hooks": [{"type": "NumClassCheckHook"}],
        "workflow": [("train", 1)],
        "load_from": None,
        "resume_from": None,
    }


def test_the_sections_become_those_of_version_3(folder: Path) -> None:
    found = to_version_3(old_config(folder))
    train = found["train_dataloader"]
    assert (train["batch_size"], train["num_workers"]) == (2, 0)
    assert train["dataset"]["data_prefix"] == {"img": str(folder / "train")}
    assert train["dataset"]["metainfo"] == {"classes": ("cat", "dog")}
    assert train["dataset"]["filter_cfg"] == {"filter_empty_gt": True, "min_size": 32}
    assert found["val_dataloader"]["batch_size"] == 1
    assert found["val_dataloader"]["dataset"]["test_mode"]
    assert found["val_evaluator"] == found["test_evaluator"]
    assert found["val_evaluator"] == {"type": "CocoMetric", "metric": "bbox"}
    assert found["model"]["data_preprocessor"]["bgr_to_rgb"] is False
    assert found["optim_wrapper"]["optimizer"] == {
        "type": "AdamW", "lr": 1e-4, "weight_decay": 1e-4
    }  # fmt: skip
    assert found["optim_wrapper"]["clip_grad"] == {"max_norm": 0.1, "norm_type": 2}
    assert found["train_cfg"] == {"max_epochs": 2, "val_interval": 2}
    assert found["default_hooks"]["checkpoint"] == {"interval": 1, "save_best": "bbox_mAP_50"}
    assert [each["type"] for each in found["param_scheduler"]] == ["LinearLR", "MultiStepLR"]
    assert to_version_3(found) == found
    assert to_version_3({"train_dataloader": {}, "model": {}}) == {
        "train_dataloader": {}, "model": {}
    }  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of an operator wait for each other; where all cores are busy, for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_it_trains(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "old.py"
    config.write_text("\n".join(f"{k} = {v!r}" for k, v in old_config(folder).items()))
    train_recipe(str(config), tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train"] * 6 + ["val"]
    assert rows[0]["lr"] == pytest.approx(1e-5) and rows[-2]["lr"] == pytest.approx(1e-5)
    assert (tmp_path / "run/best.pth").is_file()
    trainer = Trainer(old_config(folder), tmp_path / "again", quiet=True)
    assert len(trainer.stream.dataset) == 6  # the image without objects is left out
    assert trainer.stream.dataset.channel_step == -1  # BGR, as the pipeline has it


def test_pipelines() -> None:
    assert [step["type"] for step in translated_pipeline(TRAIN)] == [
        *("LoadImageFromFile", "LoadAnnotations", "RandomChoiceResize", "RandomFlip")
    ]
    assert translated_pipeline(TRAIN)[3]["prob"] == 0.5
    assert translated_pipeline(TEST)[1:] == [
        {"type": "Resize", "keep_ratio": True, "scale": (64, 48)}
    ]
    between = {"type": "Resize", "img_scale": [(640, 300), (640, 400)], "keep_ratio": True}
    factor = {"type": "mmdet.Resize", "img_scale": (640, 400), "ratio_range": (0.5, 2.0)}
    crop = {"type": "RandomCrop", "crop_size": (300, 400)}
    spans = {"type": "RandomCrop", "crop_size": (300, 400), "crop_type": "absolute_range"}
    policy = {"type": "AutoAugment", "policies": [[between], [factor, crop, spans]]}
    (choice,) = translated_pipeline([policy])
    first, (second, cropped, spanned) = choice["transforms"]
    assert first == [{"type": "RandomResize", "keep_ratio": True, "scale": between["img_scale"]}]
    assert second["ratio_range"] == (0.5, 2.0) and second["scale"] == (640, 400)
    assert cropped["crop_size"] == (400, 300) and spanned["crop_size"] == (300, 400)


def test_sizes_of_mixing_transforms_are_width_and_height_in_version_3() -> None:
    steps = [
        {"type": "Mosaic", "img_scale": (640, 480), "pad_val": 114.0, "min_bbox_size": 2},
        {"type": "RandomAffine", "border": (-320, -240), "scaling_ratio_range": (0.1, 2)},
        {"type": "MixUp", "img_scale": (640, 480), "skip_filter": True},
        {"type": "RandomShift", "shift_ratio": 0.3},
        {"type": "Pad", "size": (640, 480), "pad_val": {"img": (114.0, 114.0, 114.0)}},
        {"type": "Normalize", **BGR},
        {"type": "Pad", "size": (640, 480)},
    ]
    mosaic, affine, mix, shift, pad = translated_pipeline(steps)
    assert mosaic == {"type": "Mosaic", "img_scale": (480, 640), "pad_val": 114.0}
    assert affine["border"] == (-240, -320)
    assert mix == {"type": "MixUp", "img_scale": (480, 640)}
    assert shift == {"type": "RandomShift", "prob": 0.3}
    assert pad["size"] == (480, 640)
    with pytest.raises(BuildError, match="Mosaic: skip_filter=False is not available"):
        translated_pipeline([{**steps[0], "skip_filter": False}])


def test_padding_after_the_normalization_is_that_of_the_preprocessor(folder: Path) -> None:
    found = to_version_3(old_config(folder))["model"]["data_preprocessor"]
    assert found["pad_size_divisor"] == 32
    cfg = old_config(folder)
    cfg["data"]["train"]["pipeline"] = [
        {**step, "size": (64, 96), "size_divisor": None} if step["type"] == "Pad" else step
        for step in TRAIN
    ]
    del cfg["data"]["train"]["pipeline"][5]["size_divisor"]
    fixed = to_version_3(cfg)
    assert fixed["model"]["data_preprocessor"]["batch_augments"] == [
        {"type": "BatchFixedSizePad", "size": (64, 96)}
    ]
    trainer = Trainer(cfg, folder / "run", quiet=True)
    batch = next(trainer.stream.batches(0))
    assert batch["pixels"].shape[-2:] == (64, 96)


def test_intervals_of_the_evaluation(folder: Path) -> None:
    cfg = old_config(folder)
    cfg["evaluation"] |= {"dynamic_intervals": [(285, 1)], "start": 3}
    assert to_version_3(cfg)["train_cfg"] == {
        "max_epochs": 2, "val_interval": 2, "val_begin": 3, "dynamic_intervals": [(285, 1)]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lr_config", "rates"),
    [
        ({"policy": "step", "step": [2, 3]}, [1, 1, 0.1, 0.01]),
        ({"policy": "step", "step": 2, "gamma": 0.5}, [1, 1, 0.5, 0.5]),
        ({"policy": "fixed"}, [1, 1, 1, 1]),
        ({"policy": "fixed", "warmup": "constant", "warmup_iters": 2}, [0.1, 0.1, 1, 1]),
        (
            {"policy": "fixed", "warmup": "linear", "warmup_iters": 2, "warmup_ratio": 0.5},
            [0.5, 0.75, 1, 1],
        ),
        ({"policy": "CosineAnnealing", "min_lr": 0.0}, [1, 0.853553, 0.5, 0.146447]),
        ({"policy": "poly", "power": 1, "min_lr": 0.2, "by_epoch": False}, [1, 0.8, 0.6, 0.4]),
    ],
)
def test_learning_rates(lr_config: dict[str, Any], rates: list[float]) -> None:
    configs = to_version_3({"lr_config": lr_config})["param_scheduler"]
    made = [build_schedule(cfg, steps_per_epoch=1, max_steps=4) for cfg in configs]
    assert [scheduled_rate(1.0, step, made) for step in range(4)] == pytest.approx(rates, abs=1e-6)


def test_the_learning_rate_of_yolox() -> None:
    lr_config = {
        "policy": "YOLOX", "warmup": "exp", "by_epoch": False, "warmup_by_epoch": True,
        "warmup_ratio": 1, "warmup_iters": 2, "num_last_epochs": 3, "min_lr_ratio": 0.05,
    }  # fmt: skip
    runner = {"type": "EpochBasedRunner", "max_epochs": 10}
    configs = to_version_3({"lr_config": lr_config, "runner": runner})["param_scheduler"]
    made = [build_schedule(cfg, steps_per_epoch=4, max_steps=40) for cfg in configs]
    rates = [scheduled_rate(1.0, step, made) for step in range(40)]
    # mmdet's YOLOXLrUpdaterHook: the square of the share of the warm-up, then half a cosine
    assert rates[:8] == pytest.approx([((n + 1) / 8) ** 2 for n in range(8)])
    expected = [0.05 + 0.95 * (1 + math.cos(math.pi * (n - 8) / 20)) / 2 for n in range(8, 28)]
    assert rates[8:28] == pytest.approx(expected)
    assert rates[28:] == pytest.approx([0.05] * 12)
    with pytest.raises(BuildError, match="policy YOLOX needs a run that counts epochs"):
        to_version_3({"lr_config": lr_config})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr_config": {"policy": "cyclic"}}, "policy 'cyclic'; use one of fixed, step"),
        ({"lr_config": {"policy": "step", "warmup": "exp"}}, "warmup 'exp' is not available"),
        ({"runner": {"type": "EpochBasedRunner"}}, "runner: needs max_epochs or max_iters"),
        ({"resume_from": "x.pth"}, "resume_from is not read; use --resume"),
        ({"data": {"samples_per_gpu": 2}}, "data: needs train"),
        ({"data": {"train": 3}}, "data.train: expected a dict, got 3"),
        ({"data": {"train": {"classes": "no.txt"}}}, "data.train.classes: 'no.txt' is not a text"),
        ({"optimizer": "SGD"}, "optimizer: expected a dict, got 'SGD'"),
    ],
)
def test_what_has_no_counterpart_is_an_error(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        to_version_3(change)


def test_missing_sections_are_named_in_both_versions() -> None:
    with pytest.raises(BuildError, match=r"needs train_dataloader \(data in 2\.x\), train_cfg"):
        Trainer({"model": {}, "optimizer": {"lr": 1}}, Path("unused"))


@pytest.mark.parametrize(
    ("dataset", "metric", "expected"),
    [
        ({"type": "LVISV1Dataset"}, ["bbox", "segm"],
         {"type": "LVISMetric", "metric": ["bbox", "segm"]}),
        ({"type": "VOCDataset", "img_prefix": "d/VOC2007/"}, "mAP",
         {"type": "VOCMetric", "eval_mode": "11points"}),
        ({"type": "VOCDataset", "img_prefix": "d/VOC2012/"}, "mAP",
         {"type": "VOCMetric", "eval_mode": "area"}),
        ({"type": "OpenImagesDataset"}, "mAP", {"type": "OpenImagesMetric"}),
        ({"type": "CityscapesDataset"}, ["bbox"], {"type": "CocoMetric", "metric": ["bbox"]}),
        ({"type": "Objects365V2Dataset"}, None, {"type": "CocoMetric"}),
    ],
)  # fmt: skip
def test_the_metric_is_that_of_the_dataset(
    dataset: dict[str, Any], metric: Any, expected: dict[str, Any]
) -> None:
    evaluation = {} if metric is None else {"metric": metric}
    cfg = {"data": {"train": dataset, "val": dataset}, "evaluation": evaluation}
    assert to_version_3(cfg)["val_evaluator"] == expected


def test_masks_are_loaded_where_their_precision_is_asked_for(folder: Path) -> None:
    cfg = old_config(folder)
    cfg["evaluation"]["metric"] = ["bbox", "segm"]
    repeated = {"type": "RepeatDataset", "times": 2, "dataset": cfg["data"]["val"]}
    cfg["data"]["test"] = repeated
    found = to_version_3(cfg)
    assert found["val_dataloader"]["dataset"]["with_mask"]
    assert found["test_dataloader"]["dataset"]["dataset"]["with_mask"]
    assert "with_mask" not in found["train_dataloader"]["dataset"]
    cfg["evaluation"]["metric"] = "bbox"
    assert "with_mask" not in to_version_3(cfg)["val_dataloader"]["dataset"]


def test_several_files_accumulation_and_iterations(folder: Path) -> None:
    cfg = old_config(folder)
    files = [str(folder / "cats.json")] * 2
    cfg["data"]["train"]["ann_file"] = files
    cfg["data"]["train_dataloader"] = {"samples_per_gpu": 3}
    cfg["optimizer_config"] = {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 4}
    cfg["runner"] = {"type": "IterBasedRunner", "max_iters": 9}
    cfg["fp16"] = {"loss_scale": 512.0}
    found = to_version_3(cfg)
    assert found["train_cfg"] == {"max_iters": 9, "val_interval": 2}
    assert found["optim_wrapper"]["accumulative_counts"] == 4
    assert found["optim_wrapper"]["dtype"] == "float16"
    assert found["train_dataloader"]["batch_size"] == 3
    assert len(DATASETS.build(found["train_dataloader"]["dataset"])) == 12
    cfg["data"]["train"] = [cfg["data"]["val"], {"type": "RepeatDataset", "times": 2,
                                                 "dataset": cfg["data"]["val"]}]  # fmt: skip
    assert len(DATASETS.build(to_version_3(cfg)["train_dataloader"]["dataset"])) == 18


def test_panoptic_evaluation_and_wrappers_with_a_pipeline() -> None:
    part = {"type": "CocoPanopticDataset", "ann_file": "p.json", "ins_ann_file": "i.json",
            "img_prefix": "val", "seg_prefix": "maps", "pipeline": TEST}  # fmt: skip
    mixed = {"type": "MultiImageMixDataset", "dataset": part, "pipeline": TRAIN}
    cfg = {"data": {"train": mixed, "val": part}, "evaluation": {"metric": ["PQ", "bbox", "segm"]}}
    found = to_version_3(cfg)
    assert found["val_dataloader"]["dataset"]["data_prefix"] == {"img": "val", "seg": "maps"}
    assert "ins_ann_file" not in found["val_dataloader"]["dataset"]
    assert found["val_evaluator"] == [
        {"type": "CocoPanopticMetric"}, {"type": "CocoMetric", "metric": ["bbox", "segm"]}
    ]  # fmt: skip
    steps = found["train_dataloader"]["dataset"]["pipeline"]
    assert [step["type"] for step in steps][2:] == ["RandomChoiceResize", "RandomFlip"]
    assert to_version_3({**cfg, "evaluation": {}})["val_evaluator"]["type"] == "CocoPanopticMetric"


def coco(folder: Path, **more: Any) -> dict[str, Any]:
    return {"type": "CocoDataset", "data_root": str(folder), "ann_file": "cats.json",
            "data_prefix": "train", **more}  # fmt: skip


def test_a_repeated_image_is_augmented_anew(folder: Path) -> None:
    flip = coco(folder, pipeline=[{"type": "RandomFlip", "prob": 0.5}])
    data = DATASETS.build({"type": "RepeatDataset", "times": 8, "dataset": flip})
    assert len(data) == 56 and data.names == ("cat", "dog")
    kinds = {float(data[7 * n]["boxes"][0, 0]) for n in range(8)}
    assert kinds == {5.0, 39.0}
    data.set_epoch(1)
    again = [float(data[7 * n]["boxes"][0, 0]) for n in range(8)]
    assert again == [float(data[7 * n]["boxes"][0, 0]) for n in range(8)]
    with pytest.raises(DataError, match="times is 0"):
        DATASETS.build({"type": "RepeatDataset", "times": 0, "dataset": flip})


def test_rare_classes_come_more_often(folder: Path) -> None:
    inner = coco(folder, filter_cfg={"filter_empty_gt": True})
    cfg = {"type": "ClassBalancedDataset", "oversample_thr": 0.9, "dataset": inner}
    data = DATASETS.build(cfg)
    # dogs are in 1 of 6 images: sqrt(0.9 * 6) = 2.3, rounded up
    assert [index for index, _ in data.order] == [0, 1, 2, 3, 4, 5, 5, 5]
    assert data.class_labels(7) == {0, 1}
    with pytest.raises(DataError, match="TinyLine does not tell the classes"):
        DATASETS.build({**cfg, "dataset": {"type": "TinyLine"}})


def test_joined_datasets(folder: Path) -> None:
    data = DATASETS.build({"type": "ConcatDataset", "datasets": [coco(folder), coco(folder)]})
    assert len(data) == 14 and data[13]["image_id"] == 6 and data.class_labels(12) == {0, 1}
    only = coco(folder, metainfo={"classes": ("dog",)})
    with pytest.raises(DataError, match="the classes differ"):
        DATASETS.build({"type": "ConcatDataset", "datasets": [coco(folder), only]})
    with pytest.raises(IndexError):
        data[14]
    with pytest.raises(DataError, match="needs one dataset"):
        DATASETS.build({"type": "ConcatDataset", "datasets": []})


def test_several_evaluators() -> None:
    metric = build_metric([{"type": "TinyError"}, {"type": "TinyError", "prefix": "again"}])
    metric.reset()
    metric.use(None)
    metric.update({"y": torch.zeros(1)}, [torch.ones(1)])
    assert metric.compute() == {"error": 1.0, "again/error": 1.0}
    both = build_metric([{"type": "TinyError"}, {"type": "CocoMetric", "prefix": "val"}])
    assert both.published_names["coco/bbox_mAP"] == "val/AP"
    with pytest.raises(BuildError, match="TinyError twice; give each a prefix"):
        build_metric([{"type": "TinyError"}, {"type": "TinyError"}])
    for wrong in ([], ["TinyError"]):
        with pytest.raises(BuildError, match="expected a metric or a list of metrics"):
            build_metric(wrong)
    cfg = tiny_config()
    assert type(build_metric([cfg["val_evaluator"]])).__name__ == "TinyError"


def test_what_is_not_available_fails_before_the_training(folder: Path, tmp_path: Path) -> None:
    cfg = old_config(folder)
    cfg["val_evaluator"] = [{"type": "CocoMetric"}, {"type": "OVCocoMetric"}]
    cfg["val_dataloader"] = to_version_3(cfg)["val_dataloader"]
    with pytest.raises(BuildError, match="OVCocoMetric is not available: use CocoMetric"):
        Trainer({**to_version_3(cfg), "val_evaluator": cfg["val_evaluator"]}, tmp_path, quiet=True)
