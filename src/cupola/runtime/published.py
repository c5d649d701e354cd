"""From a published training config to the config of a bundle: what a model needs in use.

Training configs of MMDetection and MMDetection3D say it between the lines: sizes and colors stand
in the test pipeline or in the data preprocessor, names of classes in the dataset.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import ConfigError
from cupola.registry import MODELS
from cupola.runtime.building import without_pretrained
from cupola.runtime.labels import labels_for

TASKS = {
    "DETR": "detection",
    "DETR3D": "detection3d",
    "AFNONet": "forecast",
    "FNO": "forecast",
    "PrecipNet": "forecast",
    "BloomForCausalLM": "language",
}
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
PIPELINES = (
    ("test_dataloader", "dataset", "pipeline"),
    ("val_dataloader", "dataset", "pipeline"),
    ("data", "test", "pipeline"),
    ("test_pipeline",),
)
CLASSES = (
    ("metainfo", "classes"),
    ("test_dataloader", "dataset", "metainfo", "classes"),
    ("data", "test", "classes"),
    ("class_names",),
    ("classes",),
)


def bundle_config(
    cfg: Mapping[str, Any],
    name: str,
    means: str | Path | None = None,
    stds: str | Path | None = None,
) -> dict[str, Any]:
    """config.json of a bundle for the model of a training config; `cfg` is not changed.

    means, stds: .npy files of a forecast model's channels, where the config's are not there.
    Raises ConfigError for a model of no known task, and where something needed is not said.
    """
    if "model" not in cfg:
        raise ConfigError(f"{name}: holds no `model`")
    model = without_pretrained(cfg["model"])
    task = task_of(model)
    makers = {"detection": _detection, "detection3d": _detection3d}
    if task == "forecast":
        about = _forecast(cfg, model, means, stds)
    else:
        about = makers[task](cfg, model) if task in makers else {}
    return {"name": name, "version": "1", "task": task, "model": model, **about}


def task_of(model: Mapping[str, Any]) -> str:
    """What a model is for, by its class or the class that it extends."""
    maker = MODELS.get(model["type"])
    for base in getattr(maker, "__mro__", ()):
        if base.__name__ in TASKS:
            return TASKS[base.__name__]
    raise ConfigError(f"{model['type']} is none of the models that can be asked: {sorted(TASKS)}")


def _detection(cfg: Mapping[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    steps = list(_steps(_first(cfg, PIPELINES) or []))
    resize: dict[str, Any] = {"short": 800, "long": 1333}
    for step in steps:
        if step["type"] == "Resize" and (scale := step.get("scale", step.get("img_scale"))):
            width, height = scale[0] if isinstance(scale[0], list | tuple) else scale
            if step.get("keep_ratio"):
                resize = {"short": min(width, height), "long": max(width, height)}
            else:
                resize = {"exact": [height, width]}
    colors = _colors(cfg, model, steps)
    if colors:
        swap = not colors.pop("rgb")  # images come in as RGB, not as MMDetection's BGR
        kept = dict(model.get("data_preprocessor") or {"type": "DetDataPreprocessor"})
        kept = {k: v for k, v in kept.items() if k not in ("bgr_to_rgb", "rgb_to_bgr")}
        model["data_preprocessor"] = {**kept, **colors, "bgr_to_rgb": swap}
    labels = _first(cfg, CLASSES) or labels_for(model["bbox_head"].get("num_classes", 80))
    return {"labels": list(labels), "preprocess": {"resize": resize}}


def _detection3d(cfg: Mapping[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    steps = list(_steps(_first(cfg, PIPELINES) or []))
    size, cameras = [900, 1600], 6  # nuScenes
    for step in steps:
        if step["type"] == "LoadMultiViewImageFromFiles":
            cameras = step.get("num_views", cameras)
        if step["type"] in ("RandomResize3D", "Resize3D") and "scale" in step:
            size = [step["scale"][1], step["scale"][0]]
    colors = _colors(cfg, model, steps) or {**IMAGENET, "rgb": True}
    divisor = (model.get("data_preprocessor") or {}).get("pad_size_divisor", 32)
    preprocess = {
        "size": size,
        "mean": colors["mean"],
        "std": colors["std"],
        "channel_order": "rgb" if colors["rgb"] else "bgr",
        "divisor": divisor,
        "cameras": cameras,
    }
    return {"labels": list(_first(cfg, CLASSES) or []), "preprocess": preprocess}


def _forecast(
    cfg: Mapping[str, Any],
    model: Mapping[str, Any],
    means: str | Path | None,
    stds: str | Path | None,
) -> dict[str, Any]:
    channels = list(cfg.get("channels") or [])
    if not channels:
        raise ConfigError("the config names no `channels`, without which fields cannot be told")
    fields = cfg.get("fields") or _first(cfg, (("val_dataloader", "dataset"),)) or {}
    preprocess = {
        "channels": channels,
        "mean": _statistics(means or fields.get("means"), "means", len(channels)),
        "std": _statistics(stds or fields.get("stds"), "stds", len(channels)),
        "grid": {"kind": "globe", "size": list(model["img_size"])},
        "interval": cfg.get("interval", 6.0),
        "interval_unit": cfg.get("interval_unit", "hours"),
    }
    return {"preprocess": preprocess}


def _statistics(path: str | Path | None, what: str, count: int) -> list[float]:
    """One number for each channel, from a .npy file of any shape, as FourCastNet publishes it."""
    if path is None or not Path(path).is_file():
        raise ConfigError(f"{path}: no file with the channels' {what}; name one with --{what}")
    try:
        values = np.load(path, allow_pickle=False).reshape(-1)
    except ValueError as error:
        raise ConfigError(f"{path}: no array of numbers ({error})") from None
    if len(values) < count:
        raise ConfigError(f"{path}: {len(values)} {what} for {count} channels")
    return [float(value) for value in values[:count]]


def _colors(
    cfg: Mapping[str, Any], model: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """mean, std and whether they are those of RGB; empty where nothing is said."""
    said = model.get("data_preprocessor") or {}
    if "mean" in said:
        rgb = bool(said.get("bgr_to_rgb", False))
        return {"mean": list(said["mean"]), "std": list(said["std"]), "rgb": rgb}
    normalize = [s for s in steps if s["type"] in ("Normalize", "NormalizeMultiviewImage")]
    said = normalize[-1] if normalize else cfg.get("img_norm_cfg", {})
    if "mean" not in said:
        return {}
    rgb = bool(said.get("to_rgb", said.get("bgr_to_rgb", True)))
    return {"mean": list(said["mean"]), "std": list(said["std"]), "rgb": rgb}


def _steps(pipeline: Any, scale: Any = None) -> Iterator[dict[str, Any]]:
    """The transforms of a pipeline, those inside of others too; types without their scope."""
    for step in pipeline:
        if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
            continue
        scale = step.get("img_scale", scale)
        bare = {**step, "type": step["type"].rpartition(".")[2]}
        if scale is not None and bare["type"] == "Resize":
            bare.setdefault("scale", scale)
        yield bare
        yield from _steps(step.get("transforms", ()), scale)


def _first(cfg: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> Any:
    """The value at the first of the paths that leads to one."""
    for path in paths:
        value: Any = cfg
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value:
            return value
    return None
