"""The transforms of GLIP's and Grounding DINO's published pipelines."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from cupola.data.transforms import Compose
from cupola.errors import DataError

PUBLISHED = [
    {"type": "GTBoxSubOne_GLIP"},
    {
        "type": "RandomChoiceResize",
        "scales": [(1333, 80)],
        "keep_ratio": True,
        "resize_type": "FixScaleResize",
        "backend": "pillow",
    },
    {"type": "RandomFlip_GLIP", "prob": 1.0},
]


def sample() -> dict[str, Any]:
    return {
        "image": Image.new("RGB", (61, 48)),
        "boxes": np.array([[6.0, 12, 31, 37]], np.float32),
        "labels": np.array([0]),
        "crowd": np.array([False]),
        "scale_factor": (1.0, 1.0),
    }


def test_the_published_pipeline_of_glip() -> None:
    found = Compose(PUBLISHED)(sample(), np.random.default_rng(0))
    assert found["image"].size == (101, 80)  # 101.67 is rounded down
    x, y = 101 / 61, 80 / 48
    wanted = [101 - 30 * x - 1, 12 * y, 101 - 6 * x - 1, 36 * y]
    assert found["boxes"][0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_without_a_flip_boxes_stay() -> None:
    given = sample()
    flip = Compose([{"type": "RandomFlip_GLIP", "prob": 0.0}])
    assert flip(given, np.random.default_rng(0))["boxes"].tolist() == given["boxes"].tolist()


def test_sizes_of_both_kinds() -> None:
    for kind, width in (("Resize", 102), ("FixScaleResize", 101)):
        step = {"type": kind, "scale": (1333, 80), "keep_ratio": True, "backend": "pillow"}
        assert Compose([step])(sample(), np.random.default_rng(0))["image"].size == (width, 80)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="resize_type is one of Resize, FixScaleResize"):
        Compose([{"type": "RandomChoiceResize", "scales": [(9, 9)], "resize_type": "Else"}])
