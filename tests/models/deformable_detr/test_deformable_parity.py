"""DETR, Deformable DETR, DINO and DDQ at full size against mmdet 3.3.0, from published configs."""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cupola
from cupola import nn
from cupola.config import Config
from cupola.registry import build
from cupola.runtime.building import without_pretrained
from goldens import seeded
from zoo import FOLDER, ZooModel

TWO_STAGE = "deformable-detr-refine-twostage_r50_16xb2-50e_coco"
NAMES = (
    "deformable-detr_r50_16xb2-50e_coco",
    TWO_STAGE,
    "dino-4scale_r50_8xb2-12e_coco",
    "ddq-detr-4scale_r50_8xb2-12e_coco",
)
CONFIGS = Path(cupola.__file__).parent / "configs"
FAMILIES = ("detr", "deformable_detr", "dino", "ddq")
with lzma.open(FOLDER / "detr_line_keys.json.xz", "rt") as file:
    PUBLISHED: dict[str, Any] = json.load(file)
TRAINING: dict[str, Any] = json.loads((FOLDER / "training_losses.json").read_text())


@pytest.mark.parametrize("config", [n for n in PUBLISHED if n.split("/")[1] in FAMILIES])
def test_keys_and_shapes_of_every_published_config(config: str) -> None:
    published = PUBLISHED[config]
    with nn.on_meta():
        model = build(without_pretrained(published["model"]))
    found = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert found == published["keys"]


@pytest.mark.parametrize(
    ("shipped", "published"),
    [
        ("deformable_detr/deformable_detr_r50.py", f"deformable_detr/{TWO_STAGE}.py"),
        ("dino/dino_4scale_r50.py", "dino/dino-4scale_r50_8xb2-12e_coco.py"),
    ],
)
def test_the_shipped_configs_are_the_published_models(shipped: str, published: str) -> None:
    ours = Config.load(CONFIGS / shipped).to_dict()["model"]
    with nn.on_meta():
        theirs = PUBLISHED[f"3.3.0/{published}"]["model"]
        models = [build(without_pretrained(each)) for each in (ours, theirs)]
    states = [{k: v.shape for k, v in model.state_dict().items()} for model in models]
    assert states[0] == states[1]
    for name in ("num_feats", "temperature", "offset", "normalize"):
        assert len({getattr(model.positional_encoding, name) for model in models}) == 1
    assert len({model.bbox_head.loss_cls.loss_weight for model in models}) == 1


@pytest.fixture(
    scope="module",
    params=[
        NAMES[0],
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:3]),
        NAMES[3],
    ],
)
def zoo(request: pytest.FixtureRequest) -> Iterator[ZooModel]:
    yield ZooModel(request.param)


def close(zoo: ZooModel, name: str, ours: Tensor, images: int, tolerance: float) -> float:
    """The part of the stored samples of the first `images` images that differs by less."""
    about = zoo.json["outputs"][name]
    assert list(ours.shape) == about["shape"]
    stride = about["flat_stride"]
    found = seeded.flat_sample(ours.numpy(), stride)
    image = seeded.flat_sample(np.broadcast_to(np.arange(2)[:, None, None], ours.shape), stride)
    stored = zoo.tensors[f"out.{name}"].reshape(-1)
    return float((np.abs(found - stored) < tolerance * about["absmax"])[image < images].mean())


def test_features_outputs_and_predictions(zoo: ZooModel) -> None:
    """Models of two stages select cells whose scores may lie within rounding of each other.

    Which one comes first depends on the processor and its threads. Two queries then change places,
    and all others see them a little differently. Which of the padded cells of its second image DDQ
    takes depends on the order of equal scores.
    """
    images = 1 if "ddq" in zoo.json["config"] else 2
    batch = zoo.batch
    with torch.no_grad():
        for index, found in enumerate(zoo.model.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{index}", found) < 1e-4
        output = zoo.model(batch["pixels"], batch["padding_mask"])
        one_stage = zoo.json["config"] == f"deformable_detr/{NAMES[0]}.py"
        least, tolerance = (1.0, 1e-4) if one_stage else (0.99, 1e-2)
        assert close(zoo, "raw.0", output.logits, images, tolerance) >= least
        assert close(zoo, "raw.1", output.boxes, images, tolerance) >= least
        for index, found in enumerate(zoo.model.predict(batch)[:images]):
            limits = () if one_stage else (1e-2, 0.9)
            zoo.check_predictions(index, found, *limits)


@pytest.mark.slow
def test_losses_of_training(zoo: ZooModel) -> None:
    """Denoising draws the original's random numbers in the original's order."""
    model = zoo.model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    targets = [
        {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
        for boxes, labels in zip(TRAINING["boxes"], TRAINING["labels"], strict=True)
    ]
    torch.manual_seed(TRAINING["seed"])
    losses = model.loss({**zoo.batch, "targets": targets})
    model.eval()
    name = zoo.json["config"].split("/")[1].removesuffix(".py")
    expected = TRAINING["losses"][name]
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        assert value.item() == pytest.approx(expected[key], rel=1e-4), key
