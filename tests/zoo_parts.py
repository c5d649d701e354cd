"""The backbones and necks of mmdet's published configs, with their keys; see goldens/README.md."""

import json
import lzma
from typing import Any

import torch
from torch import Tensor

import cupola.models  # noqa: F401 - registers the classes
from cupola.registry import MODELS
from cupola.runtime.building import without_pretrained
from zoo import FOLDER

with lzma.open(FOLDER / "published_models.json.xz", "rt") as file:
    PUBLISHED: dict[str, dict[str, Any]] = json.load(file)


def kind(model: Any) -> str:
    """The class that a part of a config names; of a list, the last one."""
    last = model[-1] if isinstance(model, list) else model
    return str(last["type"])


def distinct_parts() -> list[tuple[str, str, Any, list[list[Any]]]]:
    """(config, "backbone" or "neck", its settings, its keys and shapes), no settings twice."""
    found: dict[str, tuple[str, str, Any, list[list[Any]]]] = {}
    for config, about in PUBLISHED.items():
        for part in ("backbone", "neck"):
            model = without_pretrained(about["model"].get(part))
            start = f"{part}."
            keys = [[k.removeprefix(start), s] for k, s, _ in about["keys"] if k.startswith(start)]
            if model and keys:
                found.setdefault(json.dumps(model, sort_keys=True), (config, part, model, keys))
    return list(found.values())


PARTS = [part for part in distinct_parts() if MODELS.find(kind(part[2])) is not None]
KINDS = sorted({kind(model) for _, _, model, _ in PARTS})


def smallest(name: str) -> tuple[str, str, Any, list[list[Any]]]:
    """The entry of PARTS with the fewest keys of a class."""
    return min((part for part in PARTS if kind(part[2]) == name), key=lambda part: len(part[3]))


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
