"""Reads the settings of a published multi-camera pipeline, in either repository's form.

The steps are not executed: a nuScenes sample is always loaded, resized, distorted, normalized and
padded in this order, which is the order of all published pipelines. The scene is moved last.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cupola.data.multiview_augmentation import RandomCrop, RandomSceneMotion
from cupola.data.nuscenes_sweeps import SweepChoice
from cupola.data.photometric import PhotometricDistortion
from cupola.errors import DataError, did_you_mean

logger = logging.getLogger("cupola")

Step = Mapping[str, Any]
Settings = dict[str, Any]

# Steps that are always performed, or whose result is not used.
DONE_ELSEWHERE = (
    *("LoadMultiViewImageFromFiles", "LoadAnnotations3D", "LoadImageFromFileMono3D"),
    *("DefaultFormatBundle3D", "Collect3D", "CustomCollect3D", "Pack3DDetInputs"),
    *("PETRFormatBundle3D", "LoadMultiViewImageFromFilesInCeph"),
)


def read_pipeline(steps: Sequence[Step]) -> Settings:
    """What the steps set: `images` (arguments of ImageSettings), `point_cloud_range`, `classes`,
    `motion` and `sweeps`.

    Raises DataError for an unknown step or setting.
    """
    found: Settings = {"images": {}}
    for step in _flat(steps):
        name = str(step.get("type", "")).rpartition(".")[2]
        if name in DONE_ELSEWHERE:
            continue
        if name in POINTS:
            logger.warning("pipeline: %s is skipped: models here use cameras only", name)
            continue
        if name not in READERS:
            hint = did_you_mean(name, [*READERS, *DONE_ELSEWHERE, *POINTS])
            raise DataError(f"pipeline: unknown step {name!r}{hint}")
        READERS[name]({key: value for key, value in step.items() if key != "type"}, found)
    return found


def _flat(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if "transforms" in step:  # MultiViewWrapper, MultiScaleFlipAug3D
            shared = str(step.get("type", "")).endswith("MultiViewWrapper")
            for inner in _flat(step["transforms"]):
                photometric = str(inner.get("type", "")).endswith("PhotoMetricDistortion3D")
                yield {**inner, "shared": True} if shared and photometric else inner
        else:
            yield step


def _resize(step: Step, found: Settings) -> None:
    low, high = step.get("ratio_range", (1.0, 1.0))
    if low != 1 or high != 1 or not step.get("keep_ratio", True):
        raise DataError(
            f"pipeline: resizing by a random ratio ({low}..{high}) or without keep_ratio is not "
            "supported; the published DETR3D pipelines do neither"
        )
    width, height = step["scale"]
    found["images"]["scale"] = (int(width), int(height))


def _scale(step: Step, found: Settings) -> None:
    if len(step["scales"]) != 1:
        raise DataError(
            f"pipeline: RandomScaleImageMultiViewImage needs one scale, got {step['scales']!r:.60}"
        )
    found["images"]["ratio"] = float(step["scales"][0])


def _crop(step: Step, found: Settings) -> None:
    conf, training = step.get("data_aug_conf"), bool(step.get("training", True))
    if not isinstance(conf, Mapping):
        raise DataError(
            f"pipeline: ResizeCropFlipImage needs data_aug_conf, a dict with final_dim, resize_lim "
            f"and rand_flip; got {conf!r:.60}"
        )
    found["images"]["crop"] = RandomCrop.from_config(conf, training)


def _move(step: Step, found: Settings) -> None:
    """`reverse_angle` is about MMDetection3D's conventions: cameras and boxes turn together."""
    if not step.get("training", True):
        return
    default = RandomSceneMotion()
    low, high = step.get("rot_range", default.rotation)
    smallest, largest = step.get("scale_ratio_range", default.scale)
    shift = tuple(map(float, step.get("translation_std", default.shift)))
    found["motion"] = RandomSceneMotion((low, high), (smallest, largest), shift)


def _sweeps(step: Step, found: Settings) -> None:
    found["sweeps"] = SweepChoice.from_step(step)


def _distort(step: Step, found: Settings) -> None:
    found["images"]["distortion"] = PhotometricDistortion(**step)


def _normalize(step: Step, found: Settings) -> None:
    found["images"] |= {"mean": step["mean"], "std": step["std"]}
    found["images"]["bgr_to_rgb"] = bool(step.get("to_rgb", True))


def _pad(step: Step, found: Settings) -> None:
    if step.get("size_divisor") is None:
        raise DataError("pipeline: PadMultiViewImage needs size_divisor")
    found["images"]["pad_size_divisor"] = int(step["size_divisor"])


def _range(step: Step, found: Settings) -> None:
    found["point_cloud_range"] = step["point_cloud_range"]


def _names(step: Step, found: Settings) -> None:
    found["classes"] = tuple(step["classes"])


# Steps of models that use point clouds as well; steps that also move the boxes are not among them.
POINTS = (
    *("LoadPointsFromFile", "LoadPointsFromMultiSweeps", "LoadPointsFromDict"),
    *("PointsRangeFilter", "PointShuffle", "PointSample"),
)

READERS: dict[str, Callable[[Step, Settings], None]] = {
    "RandomResize3D": _resize,
    "Resize3D": _resize,
    "RandomScaleImageMultiViewImage": _scale,
    "ResizeCropFlipImage": _crop,
    "ResizeCropFlipRotImage": _crop,
    "GlobalRotScaleTransImage": _move,
    "LoadMultiViewImageFromMultiSweepsFiles": _sweeps,
    "PhotoMetricDistortion3D": _distort,
    "PhotoMetricDistortionMultiViewImage": _distort,
    "NormalizeMultiviewImage": _normalize,
    "PadMultiViewImage": _pad,
    "ObjectRangeFilter": _range,
    "ObjectNameFilter": _names,
}
