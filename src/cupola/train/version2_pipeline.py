"""Pipelines of MMDetection 2.x, with the names and arguments of 3.x."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cupola.errors import BuildError

Step = Mapping[str, Any]
# What the dataset, the model's preprocessor and the batching do themselves.
DONE_ELSEWHERE = (
    *("Normalize", "DefaultFormatBundle", "Collect", "ImageToTensor", "ToTensor"),
    *("ToDataContainer", "SegRescale"),
)
# Arguments that are (height, width) in 2.x, and (width, height) in 3.x.
SWAPPED = {
    "Mosaic": "img_scale",
    "MixUp": "img_scale",
    "RandomAffine": "border",
    "Pad": "size",
    "RandomCenterCropPad": "crop_size",
}
# Arguments of 2.x without effect unless skip_filter is False, and one that was removed.
FILTERS = ("min_bbox_size", "min_area_ratio", "max_aspect_ratio", "skip_filter")
# Transforms of colors of 2.x, whose levels are not rounded.
ENHANCEMENTS = {
    "ColorTransform": "Color",
    "BrightnessTransform": "Brightness",
    "ContrastTransform": "Contrast",
}
ABSOLUTE = ("absolute", "relative")  # crop sizes that are (height, width) in 2.x


def translated_pipeline(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps of a pipeline as 3.x names them; test-time augmentation is left out.

    What follows LoadProposals moves the proposals, too. Raises BuildError for what has no
    counterpart.
    """
    loading = [number for number, step in enumerate(steps) if _kind(step) == "LoadProposals"]
    if loading:
        return _moving_proposals(steps, loading[0] + 1)
    found: list[dict[str, Any]] = []
    normalized = False
    for step in steps:
        kind = _kind(step)
        normalized = normalized or kind == "Normalize"
        if kind == "Pad" and normalized:  # the preprocessor pads with zeros
            continue
        if kind == "MultiScaleFlipAug":
            scale = step.get("img_scale")
            scale = scale[0] if isinstance(scale, list) else scale
            size = {"img_scale": scale} if scale else {"scale_factor": step.get("scale_factor", 1)}
            inner = [
                {**size, **each} if _kind(each) == "Resize" else each
                for each in step.get("transforms", ())
                if _kind(each) != "RandomFlip"
            ]
            found += translated_pipeline(inner)
        elif kind not in DONE_ELSEWHERE:
            found.append(_translated(kind, {**step, "type": kind}))
    return found


def _moving_proposals(steps: Sequence[Step], start: int) -> list[dict[str, Any]]:
    """The steps with those from `start` on, but for loading, in a ProposalBroadcaster."""
    loads = [step for step in steps[start:] if _kind(step).startswith("Load")]
    others = [step for step in steps[start:] if not _kind(step).startswith("Load")]
    first = [*translated_pipeline(steps[: start - 1]), dict(steps[start - 1])]
    inner = {"type": "ProposalBroadcaster", "transforms": translated_pipeline(others)}
    return [*first, *translated_pipeline(loads), inner]


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
    if kind in ENHANCEMENTS:
        magnitude = step["level"] / 10 * 1.8 + 0.1
        prob = step.get("prob", 0.5)
        return {"type": ENHANCEMENTS[kind], "prob": prob, "magnitude": magnitude}
    if kind in ("EqualizeTransform", "Rotate"):
        renamed = {"EqualizeTransform": "Equalize", "Rotate": "Version2Rotate"}
        return {"prob": 0.5, **step, "type": renamed[kind]}
    if kind == "RandomShift" and "shift_ratio" in step:
        step["prob"] = step.pop("shift_ratio")
    if kind in ("Mosaic", "MixUp", "RandomAffine"):
        if step.get("skip_filter") is False:
            raise BuildError(f"{kind}: skip_filter=False is not available; boxes are not filtered")
        step = {key: value for key, value in step.items() if key not in FILTERS}
    swapped = SWAPPED.get(kind)
    if kind == "RandomCrop" and step.get("crop_type", "absolute") in ABSOLUTE:
        swapped = "crop_size"
    if swapped and step.get(swapped) is not None:
        height, width = step[swapped]
        step[swapped] = (width, height)
    return step


def _resize(step: dict[str, Any]) -> dict[str, Any]:
    """One scale; one of several ("value"); between two ("range"); or one times a factor."""
    scales = step.pop("img_scale", step.pop("scale", None))
    mode, ratio = step.pop("multiscale_mode", "range"), step.pop("ratio_range", None)
    step.pop("override", None)
    step.setdefault("keep_ratio", True)
    if scales is not None:
        step.pop("scale_factor", None)
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


def preprocessing_of(dataset: Any) -> dict[str, Any]:
    """The data_preprocessor of 3.x for a dataset's pipeline; empty if it reads no image.

    It has mean, std and bgr_to_rgb of the first Normalize, or leaves pixels in BGR as they are;
    pad_size_divisor and, for a fixed size, batch_augments of the first Pad after it.
    """
    found: dict[str, Any] = {}
    steps = list(_steps(dataset))
    for step in steps:
        if _kind(step) == "Normalize" and "mean" in step and not found:
            swap = bool(step.get("to_rgb", True))
            found = {"mean": step["mean"], "std": step["std"], "bgr_to_rgb": swap}
        elif _kind(step) == "Pad" and found:
            if step.get("size_divisor", 1) > 1:
                found["pad_size_divisor"] = step["size_divisor"]
            elif step.get("size") is not None:
                size = tuple(step["size"])  # (height, width) in both
                found["batch_augments"] = [{"type": "BatchFixedSizePad", "size": size}]
            break
    if not found and any(_kind(step) == "LoadImageFromFile" for step in steps):
        return {"bgr_to_rgb": False}
    return found


def padding_of(dataset: Any) -> dict[str, Any]:
    """The arguments of `pad_batch` for the Pad after Normalize of a dataset for testing."""
    found = preprocessing_of(dataset)
    padding = {"divisor": found["pad_size_divisor"]} if "pad_size_divisor" in found else {}
    for augment in found.get("batch_augments", ()):
        padding["at_least"] = augment["size"]
    return padding


def _steps(cfg: Any) -> Iterator[Step]:
    if isinstance(cfg, list | tuple):
        for each in cfg:
            yield from _steps(each)
    elif isinstance(cfg, Mapping):
        yield cfg
        for key in ("dataset", "datasets", "pipeline", "transforms"):
            yield from _steps(cfg.get(key))
