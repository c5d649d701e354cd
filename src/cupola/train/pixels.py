"""Training reads the pixels that prediction will read: the model's normalization and padding.

Published configs normalize in the model's `data_preprocessor`, whose images come in as BGR; here
the datasets do, from RGB. Configs without one use ImageNet's values in RGB; one without `mean`
leaves pixels as they are, as YOLOX wants them. Batches are padded as the preprocessor pads them,
and in training to the size that BatchFixedSizePad names.
"""

from collections.abc import Mapping
from typing import Any

from cupola.train.loading import takes
from cupola.train.padding import published_padding

Config = Mapping[str, Any]
DETECTION = "DetDataPreprocessor"
UNCHANGED = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def published_pixels(model: Config) -> dict[str, Any]:
    """mean, std and channel_order that a model's `data_preprocessor` asks for; empty if none."""
    found = model.get("data_preprocessor")
    if not isinstance(found, Mapping):
        return {}
    values = {key: found[key] for key in UNCHANGED if key in found}
    if not values and not str(found.get("type", DETECTION)).endswith(DETECTION):
        return {}
    order = "rgb" if found.get("bgr_to_rgb", False) else "bgr"
    return {**UNCHANGED, **values, "channel_order": order}


def with_pixels(cfg: Config) -> dict[str, Any]:
    """The config with the model's normalization in every dataset that takes it and names none.

    Dataloaders get a `padding`, the arguments of `pad_batch`, where the model pads, unless they
    have their own.
    """
    pixels = published_pixels(cfg["model"])
    loaders = {}
    for key in DATALOADERS:
        if not cfg.get(key):
            continue
        loader = dict(cfg[key])
        if pixels:
            loader["dataset"] = _completed(loader.get("dataset"), pixels)
        padding = published_padding(cfg["model"], key == "train_dataloader")
        padding |= loader.get("padding") or {}
        loaders[key] = {**loader, "padding": padding} if padding else loader
    return {**cfg, **loaders}


def _completed(dataset: Any, pixels: Config) -> Any:
    if isinstance(dataset, list | tuple):
        return [_completed(each, pixels) for each in dataset]
    if not isinstance(dataset, Mapping):
        return dataset
    inner = {k: _completed(dataset[k], pixels) for k in ("dataset", "datasets") if k in dataset}
    own = {k: value for k, value in pixels.items() if k not in dataset and takes(dataset, k)}
    return {**dataset, **own, **inner}


def served_model(model: Config) -> dict[str, Any]:
    """The model's config for a bundle, whose images come in as RGB."""
    pixels = published_pixels(model)
    if not pixels:
        return dict(model)
    kept = {
        key: value
        for key, value in model["data_preprocessor"].items()
        if key not in ("bgr_to_rgb", "rgb_to_bgr")
    }
    values = {key: pixels[key] for key in UNCHANGED}
    swap = pixels["channel_order"] == "bgr"
    return {**model, "data_preprocessor": {**kept, **values, "bgr_to_rgb": swap}}
