"""Every family trains from its published config: two steps on images with boxes and masks."""

import gc
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.train.trainer import Trainer
from models.test_published_keys import FAMILIES
from published_models import PUBLISHED

# Losses that the original reports under another name.
NAMES = {
    "loss_bbox_init": ("loss_pts_init",),
    "loss_bbox_refine": ("loss_pts_refine", "loss_bbox_rf"),
    "loss_centerness": ("loss_iou",),  # PAA
    "loss_heatmap": ("det_loss",),  # CornerNet
    "loss_offset": ("off_loss",),
    "loss_embedding": ("pull_loss",),
    "loss_bbox": ("positive_bag_loss", "loss_reg", "loss_rpn_reg"),  # FreeAnchor, SABL, Cascade RPN
}
FCOS_AS_RPN = "3.3.0/faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py"
FEW = {"num": 32, "max_per_img": 60, "nms_pre": 60, "nms_post": 60, "max_num": 60}
SIDE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with objects of classes 0 to 3, their masks and maps of classes."""
    root = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "maps").mkdir()
    images, annotations = [], []
    for number in range(4):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(root / f"images/{number}.png")
        classes = rng.integers(0, 50, (SIDE, SIDE)).astype(np.uint8)
        Image.fromarray(classes).save(root / f"maps/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for label in range(3):
            left, top = (int(each) for each in rng.integers(0, SIDE - 70, 2))
            right, bottom = left + int(rng.integers(24, 70)), top + int(rng.integers(24, 70))
            polygon = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top], "segmentation": [polygon],
            })  # fmt: skip
    categories = [{"id": n + 1, "name": str(n)} for n in range(80)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def fewer(value: Any) -> Any:
    """Less samples and proposals, so that a step on a processor takes seconds."""
    if isinstance(value, dict):
        return {
            k: min(v, FEW[k]) if k in FEW and isinstance(v, int) and v > 0 else fewer(v)
            for k, v in value.items()
        }
    return [fewer(each) for each in value] if isinstance(value, list) else value


def smaller(model: dict[str, Any]) -> dict[str, Any]:
    """Fewer samples, no enlarged batches, and an hourglass whose waist has more than one pixel.

    Normalization over a batch of two pixels has gradients without bounds.
    """
    found = {**model, "train_cfg": fewer(model.get("train_cfg"))}
    backbone, pixels = model["backbone"], model.get("data_preprocessor") or {}
    if backbone["type"] == "HourglassNet":
        lists = {key: backbone[key][:4] for key in ("stage_channels", "stage_blocks")}
        found["backbone"] = {**backbone, **lists, "downsample_times": 3}
    if augments := pixels.get("batch_augments"):
        sized = [{**each, "size": (SIDE, SIDE)} if "size" in each else each for each in augments]
        found["data_preprocessor"] = {**pixels, "batch_augments": sized}
    return found


def declared(value: Any) -> set[str]:
    """The names of all losses in a config whose weight is not zero."""
    if isinstance(value, list):
        return {name for each in value for name in declared(each)}
    if not isinstance(value, dict):
        return set()
    found = {
        name
        for name, cfg in value.items()
        if name.startswith("loss_") and isinstance(cfg, dict) and cfg.get("loss_weight", 1) != 0
    }
    return found.union(*(declared(each) for each in value.values()))


def classes_of(model: Any) -> int:
    """The largest num_classes of a head."""
    if isinstance(model, list):
        return max((classes_of(each) for each in model), default=0)
    if not isinstance(model, dict):
        return 0
    semantic = str(model.get("type")).endswith("SemanticHead")
    own = 0 if semantic else model.get("num_classes", 0)
    return max(own or 0, *(classes_of(each) for each in model.values()), 0)


def config(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    scale = model["type"] == "SingleStageDetector" and model["neck"]["type"] == "SSDNeck"
    size = (300, 300) if scale else (SIDE, SIDE)
    names = [str(n) for n in range(max(80, classes_of(model)))][: max(4, classes_of(model))]
    steps = [
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True, "with_seg": True},
        {"type": "Resize", "scale": size, "keep_ratio": False},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    return {
        "model": smaller(model),
        "train_dataloader": {
            "batch_size": 2,
            "dataset": {
                "type": "CocoDataset", "data_root": str(folder), "pipeline": steps,
                "data_prefix": {"img": "images", "seg": "maps"}, "metainfo": {"classes": names},
            },
        },
        "optim_wrapper": {
            "optimizer": {"type": "SGD", "lr": 1e-3, "momentum": 0.9},
            "clip_grad": {"max_norm": 10},
        },
        "train_cfg": {"max_iters": 2},
    }  # fmt: skip


def check_trains(name: str, folder: Path, work_dir: Path) -> None:
    model = without_checkpoints(PUBLISHED[name])
    trainer = Trainer(config(model, folder), work_dir, quiet=True)
    trainer._begin(resume=False)
    trained = {k: v for k, v in trainer.model.named_parameters() if v.requires_grad}
    before = {key: value.detach().clone() for key, value in trained.items()}
    trainer.model.train()
    batches, losses = trainer.stream.batches(0), {}
    for _ in range(2):
        losses |= {k: float(v) for k, v in trainer.stepper.step(batches).items()}
    assert all(math.isfinite(value) for value in losses.values()), losses
    # some backbones end in a layer that nothing reads, and blocks begin as the identity
    unused = [key for key, value in trained.items() if value.grad is None]
    assert len(unused) < 0.05 * len(trained), unused
    # blocks of a backbone without pretrained weights begin as the identity, and layers of a level
    # of the pyramid without objects get no gradient
    heads = [key for key in trained if not key.startswith("backbone.")]
    moved = [key for key in heads if not torch.equal(trained[key], before[key])]
    assert len(moved) > 0.5 * len(heads), sorted(set(heads) - set(moved))
    without = {key: value for key, value in model.items() if not key.endswith("_cfg")}
    for loss in declared(without):
        names = (loss, loss.removeprefix("loss_"), *NAMES.get(loss, ()))
        assert any(each in key for key in losses for each in names), (loss, sorted(losses))


def without_checkpoints(value: Any) -> Any:
    """A config without the files that its parts begin with, so that they are initialized."""
    if isinstance(value, dict):
        return {
            key: None if key in ("pretrained", "init_cfg") else without_checkpoints(each)
            for key, each in value.items()
        }
    return [without_checkpoints(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*FAMILIES, FCOS_AS_RPN}))
def test_a_config_of_each_family_trains(name: str, folder: Path, tmp_path: Path) -> None:
    check_trains(name, folder, tmp_path)
    gc.collect()
