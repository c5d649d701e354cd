"""The size to which a published test pipeline resizes images."""

from typing import Any

from cupola.errors import ConfigError


def resizing(steps: list[dict[str, Any]], version_2: bool = False) -> dict[str, Any]:
    """The last Resize of a test pipeline, as in a bundle's config.

    800 and 1333 without a pipeline; of one that resizes nothing, as CenterNet's, no limits. With
    mmcv's backend "cv2", its default, `resample` is "opencv"; `dtype` is that of the pixels which
    LoadImageFromFile gives. ConfigError for a resizing by a factor.
    """
    found: dict[str, Any] = {} if steps else {"short": 800, "long": 1333}
    in_floats = any(
        step["type"] == "LoadImageFromFile" and step.get("to_float32") for step in steps
    )
    for step in steps:
        fixed = step["type"] == "FixScaleResize"
        resizes = fixed or step["type"] == "Resize"
        factor = step.get("scale_factor")
        if (resizes or step["type"] == "MultiScaleFlipAug") and factor not in (None, 1, [1]):
            raise ConfigError(
                "the test pipeline resizes by scale_factor, which is not included; give Resize a "
                "scale (MMDetection 3.x) or MultiScaleFlipAug an img_scale (2.x)"
            )
        scale = step.get("scale", step.get("img_scale"))
        if not resizes or not scale:
            continue
        scale = (scale, scale) if isinstance(scale, int) else scale
        width, height = scale[0] if isinstance(scale[0], list | tuple) else scale
        if step.get("keep_ratio", version_2):  # the default of 2.x is True
            found = {"short": min(width, height), "long": max(width, height)}
            if fixed:
                found["rounding"] = "down"
        else:
            found = {"exact": [height, width]}
        if step.get("backend", "cv2") == "cv2":
            found["resample"] = "opencv"
            if in_floats:
                found["dtype"] = "float32"
    return found
