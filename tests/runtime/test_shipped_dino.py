"""The shipped DINO finds what its example shows."""

import json
from pathlib import Path

import torch
from PIL import Image

from cupola.bundles import Bundle
from cupola.runtime import Predictor
from cupola.structures.boxes import pairwise_iou


def test_it_finds_the_digits_of_its_example() -> None:
    folder: Path = Bundle.load("dino-digits").path / "example"
    truth = json.loads((folder / "truth.json").read_text())
    with Image.open(folder / "image.png") as image:
        found = Predictor.load("dino-digits")(image)
    overlaps = pairwise_iou(torch.tensor(truth["boxes"]), found.boxes)
    same = torch.tensor(truth["labels"])[:, None] == found.labels
    assert ((overlaps * same).amax(dim=1) > 0.6).float().mean() >= 0.75
