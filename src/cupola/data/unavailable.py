"""Transforms of published configs that are not available: errors say what to do."""

from typing import Any

from cupola.errors import DataError
from cupola.registry import TRANSFORMS

REASONS = {
    "Albu": "albumentations is not used; remove the step, or use PhotoMetricDistortion, "
    "RandomAffine and the other transforms",
    "InstaBoost": "it needs the package instaboostfast, which is not maintained any more; remove "
    "the step, or use CopyPaste",
    "Corrupt": "it needs the package imagecorruptions, which is not maintained any more; remove "
    "the step",
    "LoadEmptyAnnotations": "semi-supervised training is not available",
    "MultiBranch": "semi-supervised training is not available",
    "RandAugment": "semi-supervised training is not available",
}


def _unavailable(name: str, reason: str) -> Any:
    def build(**_: Any) -> Any:
        raise DataError(f"{name} is not available: {reason}")

    return build


for each, why in REASONS.items():
    TRANSFORMS.register_module(each)(_unavailable(each, why))
