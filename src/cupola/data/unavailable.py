"""Transforms of published configs that are not available: errors say what to do."""

from typing import Any

from cupola.errors import DataError
from cupola.registry import TRANSFORMS

SEMI = "semi-supervised training is not available; remove the step, or train on labelled images"
VIDEO = "tracking of objects across the frames of a video is not available"
REASONS = {
    "InstaBoost": "it needs the package instaboostfast, which is not maintained any more; remove "
    "the step, or use CopyPaste",
    "Corrupt": "it needs the package imagecorruptions, which is not maintained any more; remove "
    "the step",
    **dict.fromkeys(("LoadEmptyAnnotations", "MultiBranch"), SEMI),
    **dict.fromkeys(
        (
            "TransformBroadcaster",
            "UniformRefFrameSample",
            "PackTrackInputs",
            "LoadTrackAnnotations",
        ),
        f"{VIDEO}; the detector of such a config trains with the pipeline of its base config",
    ),
    "PackReIDInputs": f"{VIDEO}, nor are models of appearance; train the detector alone",
    "RandomSamplingNegPos": "training on texts with sampled negative classes (ODVG files) is not "
    "available; train on a COCO file with the classes as texts: use CocoDataset, and remove the "
    "step",
    "LoadTextAnnotations": "ODVG files are not read; use CocoDataset, and remove the step",
}


def _unavailable(name: str, reason: str) -> Any:
    def build(**_: Any) -> Any:
        raise DataError(f"{name} is not available: {reason}")

    return build


for each, why in REASONS.items():
    TRANSFORMS.register_module(each)(_unavailable(each, why))
