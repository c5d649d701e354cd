"""What changes in a model while it trains: BoxInst's warm-up, and YOLOX's last epochs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.train.trainer import Trainer
from models.dense.dense_small import model
from models.dense.masked_small import BOXINST

SIDE = 64
LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
YOLOX_STEPS = [
    {"type": "Mosaic", "img_scale": (SIDE, SIDE), "pad_val": 114.0},
    {"type": "RandomAffine", "scaling_ratio_range": (0.5, 1.5), "border": (-32, -32)},
    {"type": "MixUp", "img_scale": (SIDE, SIDE), "ratio_range": (0.8, 1.6), "pad_val": 114.0},
    {"type": "Resize", "scale": (SIDE, SIDE), "keep_ratio": True},
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A dataset of four noisy images with one object each."""
    root = tmp_path_factory.mktemp("coco")
    random = np.random.default_rng(0)
    about: dict[str, Any] = {"images": [], "annotations": []}
    about["categories"] = [{"id": n + 1, "name": str(n)} for n in range(3)]
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(
            root / f"{number}.png"
        )
        about["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE}
        )
        truth = {"bbox": [8 + number, 8, 32, 40], "area": 1280, "iscrowd": 0}
        about["annotations"].append(
            {**truth, "id": number + 1, "image_id": number, "category_id": number % 3 + 1}
        )
    (root / "instances.json").write_text(json.dumps(about))
    return {"type": "CocoDataset", "data_root": str(root), "data_prefix": {"img": ""},
            "ann_file": "instances.json", "metainfo": {"classes": ["0", "1", "2"]}}  # fmt: skip


def config(model: dict[str, Any], dataset: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "train_dataloader": {"batch_size": 2, "dataset": dataset},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 1e-4}},
        **more,
    }


def losses(trainer: Trainer) -> list[dict[str, float]]:
    """The losses of every step of a run."""
    found: list[dict[str, float]] = []
    step = trainer.stepper.step
    trainer.stepper.step = lambda *given: found.append(step(*given)) or found[-1]  # type: ignore
    trainer.run()
    return found


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_second_loss_of_boxinst_grows_with_the_batches(
    pieces: int, coco: dict[str, Any], tmp_path: Path
) -> None:
    """warmup_iters counts batches, as the original does, not steps of the optimizer."""
    cfg = config(BOXINST, {**coco, "pipeline": LOAD}, train_cfg={"max_iters": 3 * pieces})
    cfg["optim_wrapper"]["accumulative_counts"] = pieces
    trainer = Trainer(cfg, tmp_path, quiet=True)
    seen: list[int] = []
    trainer.model.mask_head.box_loss = _recorded(trainer.model.mask_head, seen)
    found = losses(trainer)
    assert seen == [step * pieces for step in range(3) for _ in range(pieces)]
    pairwise = [float(each["loss_mask_pairwise"]) for each in found]
    assert pairwise[0] == 0 and 0 < pairwise[1] < pairwise[2]


def _recorded(head: Any, seen: list[int]) -> Any:
    original = head.box_loss

    def box_loss(*args: Any) -> Any:
        seen.append(head.iteration)
        return original(*args)

    return box_loss


def test_the_last_epochs_of_yolox(coco: dict[str, Any], tmp_path: Path) -> None:
    """From one epoch before `num_last_epochs` on: no mixing of images, and an L1 loss."""
    dataset = {"type": "MultiImageMixDataset", "dataset": {**coco, "pipeline": LOAD},
               "pipeline": YOLOX_STEPS}  # fmt: skip
    hook = {"type": "YOLOXModeSwitchHook", "num_last_epochs": 1}
    more = {"train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 4}, "custom_hooks": [hook]}
    trainer = Trainer(config(model("yolox"), dataset, **more), tmp_path, quiet=True)
    found = losses(trainer)
    assert ["loss_l1" in each for each in found] == [False] * 4 + [True] * 4  # two steps an epoch
    torch.manual_seed(0)
    objects = {len(trainer.stream.dataset[n]["labels"]) for n in range(4)}
    assert objects == {1}


def test_a_resumed_run_is_in_the_mode_of_its_epoch(coco: dict[str, Any], tmp_path: Path) -> None:
    dataset = {"type": "MultiImageMixDataset", "dataset": {**coco, "pipeline": LOAD},
               "pipeline": YOLOX_STEPS}  # fmt: skip
    hook = {"type": "YOLOXModeSwitchHook", "num_last_epochs": 2}
    more = {"train_cfg": {"max_epochs": 3}, "custom_hooks": [hook]}
    first = Trainer(config(model("yolox"), dataset, **more), tmp_path, quiet=True)
    first.max_steps = 4
    first.run()
    second = Trainer(config(model("yolox"), dataset, **more), tmp_path, quiet=True)
    second.run(resume=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "loss_l1" in log[-1] and second.model.bbox_head.use_l1
