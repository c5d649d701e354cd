"""Object detection and segmentation: an image -> boxes, masks, panoptic segments."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.runtime.tasks.task import BUILDING, Answer, Task, register

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.export import Program
    from cupola.runtime.predictor import Predictor


MASKED = ("CocoDataset", "LVISV1Dataset", "LVISV05Dataset")  # have masks, if they are asked for


class Detection(Task):
    """Detectors of one image."""

    name = "detection"
    models = (
        "DETR",
        "DeformableDETR",
        "MaskFormer",
        "SingleStageDetector",
        "TwoStageDetector",
        "InstanceSegmentor",
        "MaskedDetector",
    )
    modules = (
        *BUILDING,
        "cupola.runtime.predictors.proposal_detection",
        "cupola.runtime.predictors.text_detection",
    )
    page = "detection"
    page_rank = 0

    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        from cupola.runtime.predictors import detection, proposal_detection, text_detection

        if hasattr(model, "text_search"):
            return text_detection.from_bundle(bundle, model)
        if getattr(model, "needs_proposals", False):
            return proposal_detection.from_bundle(bundle, model)
        return detection.from_bundle(bundle, model)

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Labels and resizing; the normalization goes into the model's data preprocessor."""
        from cupola.config.old_sections import is_old_style
        from cupola.runtime.labels import labels_for
        from cupola.runtime.predictors.padding import published_padding
        from cupola.runtime.published_sizes import resizing
        from cupola.runtime.published_views import published_views
        from cupola.runtime.training_config import class_names, normalization, pipeline_steps
        from cupola.runtime.version2_models import as_in_version_2

        steps = pipeline_steps(cfg)
        if is_old_style(cfg):
            model.update(as_in_version_2(model))
        if found := normalization(cfg, model, steps):
            kept = dict(model.get("data_preprocessor") or {"type": "DetDataPreprocessor"})
            kept = {k: v for k, v in kept.items() if k not in ("bgr_to_rgb", "rgb_to_bgr")}
            # Images come in as RGB, not as MMDetection's BGR.
            swap = {"mean": found.mean, "std": found.std, "bgr_to_rgb": not found.rgb}
            model["data_preprocessor"] = {**kept, **swap}
        number = number_of_classes(model)
        labels = class_names(cfg, number) or labels_for(number)
        preprocess: dict[str, Any] = {"resize": resizing(steps, is_old_style(cfg))}
        if padding := published_padding(steps, is_old_style(cfg)):
            preprocess["padding"] = padding
        settings: dict[str, Any] = {"labels": list(labels), "preprocess": preprocess}
        if views := published_views(cfg):
            settings["tta"] = views
        if "language_model" in model:  # scores are means over tokens, and lower than of classes
            settings["postprocess"] = {"threshold": 0.3}
        return settings

    def bundle_files(self, checkpoint: Path, options: Mapping[str, Any]) -> dict[str, bytes]:
        """The tokenizer of a detector that searches for a text, which may be named."""
        language = (options.get("model") or {}).get("language_model")
        if not language:
            return {}
        from cupola.bundles.text_tokenizer import tokenizer_files

        return tokenizer_files(options.get("tokenizer"), str(language.get("name", "")), checkpoint)

    def example(self, bundle: "Bundle") -> Path | None:
        path = bundle.path / "example" / "image.png"
        return path if path.is_file() else None

    def read(self, source: Path) -> Any:
        from cupola.files.images import read_image

        return read_image(source)

    def calibration_samples(self, predictor: Any, bundle: "Bundle") -> list[Any]:
        """The example, or noise in the size of a photograph, and its mirror image."""
        from dataclasses import replace

        import numpy as np

        if getattr(predictor.model, "needs_proposals", False):
            return []
        if hasattr(predictor, "text") and not (predictor.text or predictor.labels):
            predictor = replace(predictor, text="object .")  # requests have texts of their own
        noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        sample = predictor.sample(self.example(bundle) or noise)
        return [sample, replace(sample, pixels=sample.pixels.flip(2))]

    def predict(self, predictor: Any, content: Any, threshold: float | None) -> Answer:
        from cupola.runtime.io.drawing import draw_detections

        found = predictor(content, threshold)
        rows = found.to_list()
        cells = [
            [str(row["name"]), f"{row['score']:.3f}", *(f"{side:.0f}" for side in row["box"])]
            for row in rows
        ]
        columns = ("class", "score", "left", "top", "right", "bottom")
        return Answer(rows, columns, cells, partial(draw_detections, content, found))

    def evaluate(self, predictor: Any, data: Path, options: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of a predictor, which reads and resizes every image as in use.

        The format of the data is in `options`, or found by its files; its classes are matched with
        the predictor's labels by name. runtime/evaluation_data.py lists both.
        """
        from cupola.registry import DATASETS, METRICS
        from cupola.runtime.evaluation import evaluate_images, named_as
        from cupola.runtime.evaluation_data import dataset_and_metric

        settings, metric = dataset_and_metric(data, options)
        if "label_file" not in settings and predictor.labels:
            settings["metainfo"] = {"classes": predictor.labels}
        if settings["type"] in MASKED:
            settings["with_mask"] = predictor.masks
        dataset = DATASETS.build(settings)
        labels = named_as(dataset, predictor)
        return evaluate_images(predictor, dataset, METRICS.build(metric), labels=labels)

    def augmented(self, predictor: Any) -> Any:
        """A predictor that merges detections in several views of an image."""
        from cupola.runtime.predictors.augmented import augmented

        return augmented(predictor)

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        from cupola.runtime.predictors.detection_program import program

        return program(predictor, size)


def number_of_classes(model: Mapping[str, Any]) -> int:
    """Of a model's config: those of its detection head, or things and stuff."""
    for part in ("bbox_head", "mask_head"):
        if part in model:
            return int(model[part].get("num_classes", 80))
    if "roi_head" in model and "panoptic_fusion_head" not in model:
        heads = model["roi_head"]["bbox_head"]
        return int((heads[-1] if isinstance(heads, list | tuple) else heads).get("num_classes", 80))
    if "panoptic_fusion_head" not in model:
        return 1  # an RPN, whose one class is an object
    head = model["panoptic_fusion_head"]
    return int(head.get("num_things_classes", 80)) + int(head.get("num_stuff_classes", 53))


register(Detection())
