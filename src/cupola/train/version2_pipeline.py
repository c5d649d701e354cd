"""Pipelines of MMDetection 2.x, with the names and arguments of 3.x."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]
# What the dataset, the model's preprocessor and the batching do themselves.
DONE_ELSEWHERE = ("Normalize", "Pad", "DefaultFormatBundle", "Collect", "ImageToTensor")
ABSOLUTE = ("absolute", "relative", "relative_range")  # crop sizes that are (height, width) in 2.x


def translated_pipeline(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps of a pipeline as 3.x names them; test-time augmentation is left out."""
    found: list[dict[str, Any]] = []
    for step in steps:
        kind = _kind(step)
        if kind == "MultiScaleFlipAug":
            scale = step.get("img_scale")
            scale = scale[0] if isinstance(scale, list) else scale
            inner = [
                {"img_scale": scale, **each} if _kind(each) == "Resize" and scale else each
                for each in step.get("transforms", ())
                if _kind(each) != "RandomFlip"
            ]
            found += translated_pipeline(inner)
        elif kind not in DONE_ELSEWHERE:
            found.append(_translated(kind, {**step, "type": kind}))
    return found


def _kind(step: Step) -> str:
    return str(step.get("type")).rpartition(".")[2]


def _translated(kind: str, step: dict[str, Any]) -> dict[str, Any]:
    if kind == "Resize":
        return _resize(step)
    if kind == "RandomFlip" and "flip_ratio" in step:
        step["prob"] = step.pop("flip_ratio") or 0.0
    if kind == "AutoAugment":
        policies = [translated_pipeline(policy) for policy in step["policies"]]
        return {"type": "RandomChoice", "transforms": policies}
    if kind == "RandomCrop" and step.get("crop_type", "absolute") in ABSOLUTE:
        height, width = step["crop_size"]
        step["crop_size"] = (width, height)
    return step


def _resize(step: dict[str, Any]) -> dict[str, Any]:
    """One scale; one of several ("value"); between two ("range"); or one times a factor."""
    scales = step.pop("img_scale", step.pop("scale", None))
    mode, ratio = step.pop("multiscale_mode", "range"), step.pop("ratio_range", None)
    step.pop("override", None)
    step.pop("backend", None)
    step.setdefault("keep_ratio", True)
    if isinstance(scales, list) and len(scales) == 1:
        scales = scales[0]
    several = isinstance(scales, list | tuple) and bool(scales) and not isinstance(scales[0], int)
    if ratio is not None:
        return {**step, "type": "RandomResize", "scale": scales, "ratio_range": ratio}
    if several and mode == "value":
        return {**step, "type": "RandomChoiceResize", "scales": scales}
    if several:
        return {**step, "type": "RandomResize", "scale": scales}
    return {**step, "scale": scales} if scales is not None else step


def normalization_of(dataset: Any) -> dict[str, Any]:
    """mean, std and bgr_to_rgb of the first Normalize in a dataset's pipeline; empty without."""
    for step in _steps(dataset):
        if _kind(step) == "Normalize" and "mean" in step:
            swap = bool(step.get("to_rgb", True))
            return {"mean": step["mean"], "std": step["std"], "bgr_to_rgb": swap}
    return {}


def _steps(cfg: Any) -> Iterator[Step]:
    if isinstance(cfg, list | tuple):
        for each in cfg:
            yield from _steps(each)
    elif isinstance(cfg, Mapping):
        yield cfg
        for key in ("dataset", "datasets", "pipeline", "transforms"):
            yield from _steps(cfg.get(key))
