"""An image has the same size when it is served and when the model is evaluated."""

import numpy as np
import pytest
from PIL import Image

from cupola.data.transforms import Resize
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.runtime.predictors.detection import DetectionPredictor

SIZES = [(height, width) for height in range(142, 300) for width in range(401, 501)]


class Model:
    """What resizing needs of a detector."""

    data_preprocessor = DetDataPreprocessor()


@pytest.fixture
def predictor() -> DetectionPredictor:
    return DetectionPredictor("toy", "1", Model(), short=800, long=1333)


def test_serving_and_evaluation_agree_on_every_size(predictor: DetectionPredictor) -> None:
    resize = Resize((1333, 800), keep_ratio=True)
    assert (221, 442) in SIZES and len(SIZES) == 15_800
    differing = [
        size for size in SIZES if predictor.input_size(size) != resize.output_size(size[::-1])[::-1]
    ]
    assert differing == []


def test_an_image_of_221_by_442_becomes_667_high_on_both_paths(
    predictor: DetectionPredictor,
) -> None:
    image = np.zeros((221, 442, 3), np.uint8)
    assert predictor.sample(image).pixels.shape == (3, 667, 1333)
    sample = {
        "image": Image.fromarray(image),
        "boxes": np.zeros((0, 4), np.float32),
        "scale_factor": (1.0, 1.0),
    }
    evaluated = Resize((1333, 800), keep_ratio=True)(sample, np.random.default_rng(0))
    assert evaluated["image"].size == (1333, 667)
