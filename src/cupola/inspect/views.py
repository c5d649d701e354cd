"""view_of: what a model does with one input, for the page: an image, cameras, a field, a text."""

import math
from pathlib import Path
from typing import Any

from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.files.images import read_image
from cupola.files.opening import content_of, read_settings
from cupola.inspect.cameras_view import view_of_cameras
from cupola.inspect.field_view import view_of_field
from cupola.inspect.image_view import view_of_boxes, view_of_image
from cupola.inspect.language_view import view_of_text
from cupola.inspect.matching_view import Truth
from cupola.runtime import tasks
from cupola.runtime.io.sample_folder import read_moment
from cupola.runtime.predictors.detection import DetectionPredictor
from cupola.runtime.predictors.detection3d import Detection3DPredictor
from cupola.runtime.predictors.forecast import ForecastPredictor
from cupola.runtime.predictors.language import LanguagePredictor

View = dict[str, Any]
TEXT = "The quick brown fox jumps over the lazy dog."


def view_of(
    model: Any,
    bundle: Bundle | None,
    source: Path | None = None,
    truth: Path | None = None,
    text: str | None = None,
) -> View | None:
    """What the model does with an image, a sample folder or a text; None if nothing can be shown.

    Without a source or a text it is the bundle's example. A bundle resizes the image and names the
    classes. `truth` is a JSON file {"boxes": [xyxy in pixels], "labels": [numbers]}, which the
    examples of detectors have. InputError for a source that the model does not take.
    """
    predictor = tasks.find(bundle.task).predictor(bundle, model) if bundle else None
    if isinstance(predictor, LanguagePredictor):
        _refuse(source or truth, "a language model, which takes a text")
        return view_of_text(predictor, prompt_of(bundle) if text is None else text)
    if text is not None:
        raise InputError("a text is for a bundle of a language model")
    if isinstance(predictor, ForecastPredictor):
        _refuse(source or truth, "a forecast model, whose example the page shows")
        return view_of_field(predictor) if predictor.has_example else None
    return _view_of_images(model, predictor, bundle, source, truth)


def _view_of_images(
    model: Any, predictor: Any, bundle: Bundle | None, source: Path | None, truth: Path | None
) -> View | None:
    """Of the named image or sample folder, or of the bundle's example and its objects."""
    assigner = getattr(getattr(model, "bbox_head", None), "assigner", None)
    if truth is not None and not hasattr(assigner, "costs"):
        raise InputError(f"{truth}: {type(model).__name__} does not match queries with objects")
    if source is None and bundle is not None:
        source = tasks.find(bundle.task).example(bundle)
        beside = source.parent / "truth.json" if source is not None else None
        truth = beside if truth is None and beside is not None and beside.is_file() else truth
    if source is None:
        return None
    if source.is_dir() or isinstance(predictor, Detection3DPredictor):
        return _folder(predictor, source)
    return _image(model, predictor, source, truth)


def _refuse(source: Path | None, what: str) -> None:
    if source is not None:
        raise InputError(f"{source}: this is {what}")


def prompt_of(bundle: Bundle | None) -> str:
    """The prompt of the bundle's example request, else a sentence."""
    path = bundle.path / "example" / "request.json" if bundle else None
    if path is None or not path.is_file():
        return TEXT
    with content_of(path, "a request with a prompt", InputError):
        return str(read_settings(path, InputError)["inputs"][0]["data"][0])


def _image(model: Any, predictor: Any, source: Path, truth: Path | None) -> View:
    pixels = read_image(source)
    if not isinstance(predictor, DetectionPredictor):
        return view_of_image(model, pixels)
    if not hasattr(model, "inspect"):
        return view_of_boxes(pixels, predictor(pixels).to_list())
    known = read_truth(truth) if truth is not None else None
    inputs = predictor.sample(pixels).pixels[None]
    return view_of_image(model, pixels, predictor.labels, inputs=inputs, truth=known)


def read_truth(path: Path) -> Truth:
    """The objects of an image; InputError for a file that does not hold them."""
    truth = read_settings(path, InputError)
    with content_of(path, 'an object with "boxes" (four numbers each) and "labels"', InputError):
        boxes = [[float(side) for side in box] for box in truth["boxes"]]
        labels = [int(label) for label in truth["labels"]]
        if any(len(box) != 4 for box in boxes) or len(labels) != len(boxes):
            raise ValueError("a box is four numbers, and each has a label")
        if not all(math.isfinite(side) for box in boxes for side in box):
            raise ValueError("the sides of a box are finite")
    return {"boxes": boxes, "labels": labels}


def _folder(predictor: Any, folder: Path) -> View:
    """Where the queries looked in the images of a sample folder."""
    if not isinstance(predictor, Detection3DPredictor):
        raise InputError(f"{folder}: a sample folder needs a bundle of a multi-camera model")
    sample = predictor.sample(*read_moment(folder))
    batch = predictor.batch([sample])
    return view_of_cameras(predictor.model, sample.images, batch, predictor.labels)
