"""init_detector and inference_detector."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cupola.bundles import Bundle
from cupola.bundles.downloads import find_checkpoint
from cupola.compat.mmdet.results import DetDataSample
from cupola.config import Config
from cupola.errors import ConfigError, InputError
from cupola.runtime import tasks
from cupola.runtime.building import build
from cupola.runtime.devices import available, find_device
from cupola.runtime.io.image_sources import reader, to_pixels
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.padding import published_padding
from cupola.runtime.published import bundle_config
from cupola.runtime.published_sizes import resizing
from cupola.runtime.training_config import pipeline_steps
from cupola.weights.reading import read_torch

# What a pipeline decides of a predictor.
SIZES = ("short", "long", "exact", "within", "rounding", "resample", "dtype", "pad", "padding")
DEVICE = re.compile(r"(cpu|cuda)(:\d+)?")

logger = logging.getLogger("cupola")


@dataclass
class Detector:
    """What init_detector returns: a predictor, its config and its class names.

    cfg: the config, with attributes. dataset_meta: `classes`. CLASSES: the same, as in 2.x.
    model: the module itself. Its attributes and methods (`parameters()`, `bbox_head`, ...) are the
    detector's, too.
    """

    predictor: Any
    cfg: Config

    @property
    def model(self) -> Any:
        return self.predictor.model

    @property
    def dataset_meta(self) -> dict[str, Any]:
        return {"classes": self.predictor.labels}

    @property
    def CLASSES(self) -> tuple[str, ...]:  # noqa: N802, the name in 2.x
        return tuple(self.predictor.labels)

    def eval(self) -> "Detector":
        """The same: a detector is in eval mode already."""
        return self

    def to(self, device: Any) -> "Detector":
        """The same, moved to another device; InputError for one that is not there."""
        self.predictor.to(find_device(str(device)))
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("predictor", "cfg"):
            raise AttributeError(f"Detector has no {name!r}")
        return getattr(self.predictor.model, name)


def init_detector(
    config: str | Path | Mapping[str, Any],
    checkpoint: str | Path | None = None,
    palette: Any = "none",
    device: Any = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector from a config (a path, or its content) and its checkpoint.

    Class names come from the checkpoint's metadata, the config, or else those of COCO. Without a
    checkpoint the weights are random, and a warning says so. `palette` has no effect, unless it is
    a device, which is the third argument in 2.x. `device` is the first accelerator by default,
    where there is one, else the CPU. Raises ConfigError,
    BuildError, CheckpointError, and InputError for a device that is not there.
    """
    if device is None and isinstance(palette, str) and DEVICE.fullmatch(palette):
        device = palette
    place = find_device(device or available()[:2][-1])
    cfg = _config(config)
    if cfg_options:
        cfg = cfg.override(dict(cfg_options))
    name = cfg.filename.stem if cfg.filename else "detector"
    about = bundle_config(cfg.to_dict(), name)
    if about["task"] != "detection":
        raise ConfigError(f"{name}: a {about['task']} model; init_detector is for detection")
    if checkpoint is None:
        logger.warning("init_detector: no checkpoint, so the weights are random")
    else:
        checkpoint = find_checkpoint(checkpoint)
        if classes := _classes(checkpoint):
            about["labels"] = classes
    model = build(about["model"], weights=checkpoint).eval()
    bundle = Bundle(Path(), about, checkpoint and Path(checkpoint))
    predictor = tasks.find("detection").predictor(bundle, model)
    predictor.to(place)
    return Detector(predictor, cfg)


def _config(config: Any) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, str | Path):
        return Config.load(config)
    if isinstance(config, Mapping):
        return Config(config)
    content = getattr(config, "to_dict", None)  # mmengine's Config
    if content is None:
        raise ConfigError(f"config: expected a path or a dict, got {type(config).__name__}")
    return Config(content())


def _classes(checkpoint: Path) -> list[str]:
    """The class names in the metadata of a checkpoint of MMDetection; empty without any."""
    if checkpoint.suffix not in (".pth", ".pt") or not checkpoint.is_file():
        return []
    content = read_torch(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    found = meta.get("dataset_meta", meta) if isinstance(meta, Mapping) else None
    names = None
    if isinstance(found, Mapping):
        names = found.get("classes") or found.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        return []
    return list(names)


def inference_detector(
    model: Detector,
    imgs: Any,
    test_pipeline: Any = None,
    text_prompt: Any = None,
    custom_entities: bool = False,
) -> DetDataSample | list[DetDataSample]:
    """The result for one image, or a list of results for a list of images.

    An image is a path or an array [H, W, 3] in BGR, as `cv2.imread` gives, or anything else that a
    predictor takes. `test_pipeline`, a list of transforms as configs have it, resizes and pads in
    the place of the config's own; the normalization stays. InputError for what cannot be resized.
    `text_prompt` is what a detector that searches for a text looks for; names are between full
    stops, with and without `custom_entities`.
    """
    if test_pipeline is not None:
        model = replace(model, predictor=with_pipeline(model.predictor, test_pipeline))
    several = isinstance(imgs, Sequence) and not isinstance(imgs, str | bytes)
    sources = list(imgs) if several else [imgs]
    size = model.predictor.max_batch
    samples = [
        read_again(sample, source)
        for start in range(0, len(sources), size)
        for sample, source in detect(model, sources[start : start + size], start, text_prompt)
    ]
    return samples if several else samples[0]


def with_pipeline(predictor: Any, pipeline: Any) -> Any:
    """The predictor with the sizes and the padding of another test pipeline."""
    known = isinstance(pipeline, Sequence) and all(isinstance(s, Mapping) for s in pipeline)
    if not known or not pipeline:
        raise InputError(
            "test_pipeline: expected a list of transforms as a config has it, such as "
            "model.cfg.test_pipeline, not a Compose"
        )
    steps = pipeline_steps({"test_pipeline": list(pipeline)})
    old = any(step["type"] in ("MultiScaleFlipAug", "Normalize") for step in steps)
    try:
        preprocess = {"resize": resizing(steps, old), "padding": published_padding(steps, old)}
    except ConfigError as error:
        raise InputError(f"test_pipeline: {error}") from None
    about = (predictor.name, predictor.version, predictor.model, {"preprocess": preprocess})
    made = make(*about, predictor.labels)
    changed = {name: getattr(made, name) for name in SIZES}
    return replace(predictor, **changed)


def detect(
    model: Detector, sources: Sequence[Any], first: int = 0, text: Any = None
) -> list[tuple[DetDataSample, Any]]:
    """The result for each source, with the source; each image is decoded once and kept.

    `first` is the number of the first one, for errors. `text` is what all are searched for.
    """
    if text is not None and not hasattr(model.predictor, "text"):
        raise InputError(f"a text: {model.predictor.name} does not search for one")
    pixels = []
    for number, source in enumerate(sources, first):
        try:
            pixels.append(to_pixels(as_rgb(source), model.predictor.max_image_pixels))
        except InputError as error:
            raise InputError(f"images[{number}]: {error}") from None
    searched = {} if text is None else {"text": text}
    found = model.predictor(pixels, threshold=0.0, **searched)
    return [
        (DetDataSample.of(each, _metainfo(source, array)), source)
        for each, source, array in zip(found, sources, pixels, strict=True)
    ]


def read_again(sample: DetDataSample, source: Any) -> DetDataSample:
    """A result that reads a file again if it is drawn, instead of keeping its pixels."""
    if not isinstance(source, str | Path | bytes):
        return sample
    return replace(sample, found=replace(sample.found, image=reader(source)))


def as_rgb(image: Any) -> Any:
    """An array's channels from BGR to RGB; other images are as they are."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in (3, 4):
        return image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return image


def _metainfo(source: Any, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"ori_shape": tuple(pixels.shape[:2])}
    if isinstance(source, str | Path):
        about["img_path"] = str(source)
    return about
