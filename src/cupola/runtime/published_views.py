"""Test-time augmentation as published configs declare it: the views of an image, and their merging.

MMDetection 3.x has `tta_model` and `tta_pipeline`, 2.x a MultiScaleFlipAug with several scales or
with `flip=True`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from cupola.config.old_sections import is_old_style
from cupola.errors import ConfigError
from cupola.runtime.predictors.padding import published_padding
from cupola.runtime.published_sizes import resizing
from cupola.runtime.training_config import pipeline_steps

Steps = list[dict[str, Any]]
FLIPS = ("horizontal", "vertical", "diagonal")


def published_views(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`tta` of a bundle's config: `views`, and how they are merged; empty if none is declared.

    Each view has `resize`, `padding` and `flip`. With `tta_model` detections are merged by its
    `nms`, and `max_per_img` are kept; in 2.x the candidates of all views have one NMS, that of the
    model. What cannot be reproduced is `refused`, which only matters to those who ask for it.
    """
    try:
        if cfg.get("tta_model") and cfg.get("tta_pipeline"):
            settings = cfg["tta_model"].get("tta_cfg") or {}
            views = list(_views_of_3(cfg["tta_pipeline"]))
            kept = {key: settings[key] for key in ("nms", "max_per_img") if key in settings}
            return {"views": views, **kept}
        if is_old_style(cfg):
            views = list(_views_of_2(pipeline_steps(cfg)))
            return {"views": views, "candidates": True} if len(views) > 1 else {}
    except ConfigError as error:
        return {"refused": str(error)}
    return {}


def _views_of_3(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Of TestTimeAug, whose first group of transforms varies slowest."""
    before: Steps = []
    for step in pipeline_steps({"test_pipeline": list(pipeline)}):
        if step["type"] != "TestTimeAug":
            before.append(step)
            continue
        for choice in product(*step["transforms"]):
            steps = [*before, *pipeline_steps({"test_pipeline": list(choice)})]
            yield _view(steps, _flip(steps), version_2=False)


def _views_of_2(steps: Steps) -> Iterator[dict[str, Any]]:
    """Of MultiScaleFlipAug: of each scale the image, then its flips."""
    loading = [step for step in steps if step["type"] == "LoadImageFromFile"]
    for step in steps:
        if step["type"] != "MultiScaleFlipAug":
            continue
        flips: list[str | None] = [None]
        if step.get("flip"):
            directions = step.get("flip_direction", "horizontal")
            flips += [directions] if isinstance(directions, str) else list(directions)
        scales = step.get("img_scale")
        scales = scales if scales and isinstance(scales[0], list | tuple) else [scales]
        for scale, flip in product(scales, flips):
            one = {**step, **({"img_scale": scale} if scale else {})}
            yield _view(pipeline_steps({"test_pipeline": [*loading, one]}), flip, version_2=True)


def _view(steps: Steps, flip: str | None, version_2: bool) -> dict[str, Any]:
    if flip is not None and flip not in FLIPS:
        raise ConfigError(f"test-time augmentation flips {flip!r}; expected one of {FLIPS}")
    resize, padding = resizing(steps, version_2), published_padding(steps, version_2)
    if flip and version_2 and padding.get("centered"):
        padding["mirrored"] = flip  # 2.x flips after it has padded
    return {"resize": resize, "padding": padding, "flip": flip}


def _flip(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """What RandomFlip does with certainty; ConfigError for one that draws at random."""
    for step in steps:
        if step["type"] != "RandomFlip":
            continue
        prob, direction = step.get("prob", 0), step.get("direction", "horizontal")
        if prob not in (None, 0, 1) or not isinstance(direction, str):
            raise ConfigError(
                f"test-time augmentation with RandomFlip(prob={prob}, direction={direction!r}) "
                "draws at random; expected prob 0 or 1, and one direction"
            )
        return direction if prob == 1 else None
    return None
