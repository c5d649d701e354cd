"""Backbones and necks of mmdet's published configs: keys and shapes, and features.

The keys are those that mmdet 3.3.0 and 2.28.2 build from the configs; the features are those of
mmdet 3.3.0 with the formula's weights (see tests/goldens/README.md).
"""

import json
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from goldens import seeded
from zoo import FOLDER
from zoo_parts import KINDS, PARTS, kind, part_keys, smallest

FEATURES: dict[str, dict[str, Any]] = json.loads((FOLDER / "features.json").read_text())
# Largest difference over the largest value. The formula lets some backbones amplify rounding:
# with these, our own float32 differs as much from float64.
TOLERANCE = 1e-4
AMPLIFIED = {"hrnet": 1e-3, "res2net": 2e-3, "faster_rcnn": 5e-4}


def check_keys(config: str, part: str, model: Any) -> None:
    with nn.on_meta():
        own = MODELS.build(model).state_dict()
    found = [[key, list(value.shape)] for key, value in own.items()]
    assert found == part_keys(config, part), config


@pytest.mark.parametrize("name", KINDS)
def test_keys_and_shapes_of_one_config_of_each_class(name: str) -> None:
    check_keys(*smallest(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_keys_and_shapes_of_all_configs(name: str) -> None:
    for config, part, model in PARTS:
        if kind(model) == name:
            check_keys(config, part, model)


def seeded_part(name: str, about: dict[str, Any]) -> nn.Module:
    """The backbone or neck of a golden in eval mode, with the formula's weights."""
    part = MODELS.build(about[name])
    made = {
        key: torch.from_numpy(
            seeded.seeded_weight(f"{name}.{key}", value.shape, about["seed_prefix"], "float32")
        )
        for key, value in part.state_dict().items()
        if value.is_floating_point() and f"{name}.{key}" not in about["as_built"]
    }
    part.load_state_dict(made, strict=False)
    return part.eval()


def images(about: dict[str, Any]) -> Tensor:
    pixels = torch.from_numpy(seeded.seeded_image("image", about["image"], about["seed_prefix"]))
    for image, (height, width) in zip(pixels, about["img_shapes"], strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("config", FEATURES)
def test_features_are_those_of_mmdet(config: str) -> None:
    about = FEATURES[config]
    with torch.no_grad():
        maps = seeded_part("backbone", about)(images(about))
        if about["neck"]:
            maps = seeded_part("neck", about)(maps)
    stored = load_file(FOLDER / "features.safetensors")
    assert len(maps) == len(about["outputs"])
    for (name, output), found in zip(about["outputs"].items(), maps, strict=True):
        assert list(found.shape) == output["shape"]
        sample = seeded.flat_sample(found.numpy(), output["flat_stride"])
        difference = abs(sample - stored[f"{config}.{name}"]).max() / output["absmax"]
        assert difference < AMPLIFIED.get(config.split("/")[0], TOLERANCE), name
