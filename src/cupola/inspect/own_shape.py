"""own_shape: the input that a model gets in use, as its test pipeline makes it."""

from typing import Any

from PIL import Image

from cupola.errors import CupolaError
from cupola.runtime import tasks
from cupola.runtime.load import open_config
from cupola.runtime.predictors.detection import DetectionPredictor
from cupola.runtime.predictors.detection3d import Detection3DPredictor

PHOTO = (480, 640)  # height and width of most of COCO's images
MOST_PIXELS = 2_000_000  # of all cameras; more takes minutes to run


def own_shape(model: Any, source: str, bundle: Any) -> tuple[int, ...] | None:
    """Shape of one sample in use: [3, H, W] for a detector, [N, 3, H, W] for N cameras.

    A detector's is that of the bundle's example, or of a photo of 480 x 640, after resizing and
    padding. Many large cameras are halved until they have less than two million pixels. None for
    other models, whose forward says its shape, and for a config without a test pipeline.
    """
    try:
        opened = bundle or open_config(source)
        predictor = tasks.find(opened.task).predictor(opened, model)
    except CupolaError:
        return None
    if isinstance(predictor, DetectionPredictor):
        return (3, *predictor.padded_size(predictor.input_size(_example_size(opened))))
    if isinstance(predictor, Detection3DPredictor):
        height, width = predictor.size
        while predictor.cameras * height * width > MOST_PIXELS:
            height, width = height // 2, width // 2
        divisor = predictor.divisor
        sides = (-(-side // divisor) * divisor for side in (height, width))
        return (predictor.cameras, 3, *sides)
    return None


def _example_size(bundle: Any) -> tuple[int, int]:
    """Height and width of the bundle's example."""
    example = tasks.find(bundle.task).example(bundle)
    if example is None:
        return PHOTO
    with Image.open(example) as image:
        return image.height, image.width
