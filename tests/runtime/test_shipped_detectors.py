"""The shipped DINO and RTMDet find what their example shows."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cupola.bundles import Bundle
from cupola.runtime import Predictor
from cupola.structures.boxes import pairwise_iou


@pytest.mark.parametrize("name", ["dino-digits", "rtmdet-digits"])
def test_it_finds_the_digits_of_its_example(name: str) -> None:
    folder: Path = Bundle.load(name).path / "example"
    truth = json.loads((folder / "truth.json").read_text())
    with Image.open(folder / "image.png") as image:
        found = Predictor.load(name)(image)
    overlaps = pairwise_iou(torch.tensor(truth["boxes"]), found.boxes)
    same = torch.tensor(truth["labels"])[:, None] == found.labels
    assert ((overlaps * same).amax(dim=1) > 0.6).float().mean() >= 0.75
