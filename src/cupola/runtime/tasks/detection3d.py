"""3-D object detection: the images of calibrated cameras -> boxes in space."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.runtime.tasks.task import BUILDING, Answer, Task, register

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.export import Program
    from cupola.runtime.predictor import Predictor

NUSCENES_SIZE = [900, 1600]


class Detection3D(Task):
    """Multi-camera detectors."""

    name = "detection3d"
    models = ("DETR3D", "CameraModel")
    modules = (*BUILDING, "cupola.runtime.predictors.detection3d")
    page = "detection3d"
    page_rank = 2

    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        from cupola.runtime.predictors.detection3d import from_bundle

        return from_bundle(bundle, model)

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Labels, cameras, and the size and normalization of their images."""
        from cupola.runtime.cameras import cameras_of
        from cupola.runtime.training_config import (
            Normalization,
            class_names,
            normalization,
            pipeline_steps,
        )
        from cupola.structures import IMAGENET_MEAN, IMAGENET_STD

        steps = pipeline_steps(cfg)
        cameras = cameras_of(cfg, model, steps)
        size = NUSCENES_SIZE
        fit = "stretch"
        for step in steps:
            if step["type"] in ("RandomResize3D", "Resize3D") and "scale" in step:
                size = [step["scale"][1], step["scale"][0]]
            elif step["type"] == "RandomScaleImageMultiViewImage":
                size = [int(side * step["scales"][0]) for side in NUSCENES_SIZE]
            elif cut := _cut_size(cfg, step):
                size, fit = cut, "cover"
        imagenet = Normalization(list(IMAGENET_MEAN), list(IMAGENET_STD), rgb=True)
        found = normalization(cfg, model, steps) or imagenet
        preprocess = {
            "size": size,
            "mean": found.mean,
            "std": found.std,
            "channel_order": "rgb" if found.rgb else "bgr",
            "divisor": (model.get("data_preprocessor") or {}).get("pad_size_divisor", 32),
            "cameras": cameras.number,
            **({"fit": fit} if fit != "stretch" else {}),
            **({"camera_names": list(cameras.names)} if cameras.names else {}),
        }
        return {"labels": list(class_names(cfg)), "preprocess": preprocess}

    def example(self, bundle: "Bundle") -> Path | None:
        folder = bundle.path / "example"
        return folder if (folder / "sample.json").is_file() else None

    def read(self, source: Path) -> Any:
        from cupola.runtime.io.sample_folder import read_moment

        return read_moment(source)

    def calibration_samples(self, predictor: Any, bundle: "Bundle") -> list[Any]:
        """The example, or noise seen by cameras that look ahead, and its mirror images."""
        from dataclasses import replace

        import numpy as np

        from cupola.runtime.io.sample_folder import example_folders, read_moment

        if folders := example_folders(predictor.folder):
            sample = predictor.sample(*read_moment(folders[0]))
        else:
            shape = (predictor.cameras, *predictor.size, 3)
            noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            height, width = predictor.size
            ahead = [
                [width, width / 2, 0, 0],
                [0, height / 2, -width, 0],
                [0, 1, 0, 0],
                [0, 0, 0, 1],
            ]
            sample = predictor.sample(list(noise), np.array([ahead] * len(noise), np.float32))
        return [sample, replace(sample, images=np.ascontiguousarray(sample.images[:, :, ::-1]))]

    def predict(self, predictor: Any, content: Any, threshold: float | None) -> Answer:
        """Meters, degrees, meters per second."""
        import math

        from cupola.runtime.io.drawing3d import draw_sample

        sample = predictor.sample(*content)
        found = predictor.predict(sample, threshold)
        rows = found.to_list()
        cells = [
            [
                row["name"],
                f"{row['score']:.3f}",
                *(f"{meters:.1f}" for meters in row["bottom"][:2]),
                " x ".join(f"{side:.1f}" for side in row["size"]),
                f"{math.degrees(row['yaw']):.0f}",
                f"{math.hypot(*row['velocity']):.1f}",
            ]
            for row in rows
        ]
        columns = ("class", "score", "right", "ahead", "l x w x h", "yaw", "speed")
        drawing = partial(draw_sample, sample.images, sample.lidar2img, found)
        return Answer(rows, columns, cells, drawing)

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        from cupola.runtime.predictors.detection3d_program import program

        return program(predictor, size)


def _cut_size(cfg: Mapping[str, Any], step: Mapping[str, Any]) -> list[int] | None:
    """[height, width] to which a step cuts; Sparse4D's data set tells it, not the step."""
    if "data_aug_conf" not in step and step["type"] != "ResizeCropFlipImage":
        return None
    dataset = (cfg.get("data") or {}).get("test") or {}
    for holder in (step, dataset, cfg):
        if (holder.get("data_aug_conf") or {}).get("final_dim"):
            return list(holder["data_aug_conf"]["final_dim"])
    return None


register(Detection3D())
