"""Detectors that search for a text are trained on data with classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola import Predictor
from cupola.errors import BuildError
from cupola.train.bundling import bundle_run
from cupola.train.texts import use_texts
from cupola.train.trainer import Trainer
from models.grounding.small import WORDS, grounding_dino

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photos with a cat each, as a COCO folder, and a folder of the language model."""
    names = ["cat", "traffic light"]
    content: dict[str, Any] = {
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "images": [],
        "annotations": [],
    }
    random = np.random.default_rng(0)
    for i in range(2):
        pixels = random.integers(0, 255, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        image = {"id": i, "file_name": f"{i}.png", "height": 64, "width": 96}
        box = {"image_id": i, "bbox": [10, 10, 40, 30], "area": 1200, "iscrowd": 0}
        content["images"].append(image)
        content["annotations"].append({**box, "id": i, "category_id": i + 1})
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path


def test_the_classes_of_the_data_are_the_text(data: Path) -> None:
    model = grounding_dino({"log_scale": "auto", "bias": True})
    model["language_model"]["name"] = str(data / "bert")
    dataset = {"type": "CocoDataset", "data_root": str(data), "ann_file": "coco.json"}
    loader = {"batch_size": 2, "dataset": dataset}
    config = {
        "model": model,
        "train_dataloader": loader,
        "val_dataloader": {"batch_size": 1, "dataset": dataset},
        "val_evaluator": {"type": "CocoMetric"},
        "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 1e-3}},
        "train_cfg": {"max_iters": 2, "val_interval": 2},
        "bundle": {"name": "found", "task": "detection", "labels": ["cat", "traffic light"]},
    }
    trainer = Trainer(config, data / "run", quiet=True)
    assert trainer.model.text_search.text == ["cat", "traffic light"]
    metrics = trainer.run()
    assert "AP" in metrics
    bundle = bundle_run(trainer)
    assert (bundle.path / "vocab.txt").is_file()
    found = Predictor.load(bundle.path)(data / "0.png", threshold=0.0)
    assert found.names == ("cat", "traffic light") and torch.isfinite(found.scores).all()


def test_data_without_classes() -> None:
    class Searching:
        text_search = None

    with pytest.raises(BuildError, match="has no names of classes"):
        use_texts(Searching(), object())
