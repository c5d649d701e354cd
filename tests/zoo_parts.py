"""The backbones and necks of mmdet's published configs, with their keys; see goldens/README.md."""

import json
from typing import Any

import torch
from torch import Tensor

import cupola.models  # noqa: F401 - registers the classes
from cupola.registry import MODELS
from cupola.runtime.building import without_pretrained
from published_models import PUBLISHED, Keys, has_keys, published_keys


def kind(model: Any) -> str:
    """The class that a part of a config names; of a list, the last one."""
    last = model[-1] if isinstance(model, list) else model
    return str(last["type"])


def distinct_parts() -> list[tuple[str, str, Any]]:
    """(config, "backbone" or "neck", its settings), no settings twice."""
    found: dict[str, tuple[str, str, Any]] = {}
    for config, published in PUBLISHED.items():
        for part in ("backbone", "neck"):
            model = without_pretrained(published.get(part))
            if model and has_keys(config, part):
                found.setdefault(json.dumps(model, sort_keys=True), (config, part, model))
    return list(found.values())


PARTS = [part for part in distinct_parts() if MODELS.find(kind(part[2])) is not None]
KINDS = sorted({kind(model) for _, _, model in PARTS})


def part_keys(config: str, part: str) -> Keys:
    """Name and shape of each tensor of a part."""
    return [[key, shape] for key, shape, _ in published_keys(config, part)]


def smallest(name: str) -> tuple[str, str, Any]:
    """The entry of PARTS with the fewest keys of a class."""
    return min(
        (part for part in PARTS if kind(part[2]) == name),
        key=lambda part: len(published_keys(*part[:2])),
    )


def small_inputs(part: str, model: Any) -> Tensor | list[Tensor]:
    """An image for a backbone, and the maps of one for a neck, two samples each."""
    torch.manual_seed(0)
    if part == "backbone":
        return torch.randn(2, 3, 64, 96)
    first = model[0] if isinstance(model, list) else model
    widths = first.get("in_channels", first.get("in_channel"))
    widths = [widths] * first.get("num_levels", 1) if isinstance(widths, int) else list(widths)
    if first["type"] == "YOLOV3Neck":
        widths.reverse()
    h, w = (64, 96) if first["type"] in ("FPG", "NASFPN", "SSDNeck") else (16, 24)
    maps = [torch.randn(2, width, h >> i, w >> i) for i, width in enumerate(widths)]
    return [torch.randn(2, 3, 64, 96), *maps] if first["type"] == "RFP" else maps
