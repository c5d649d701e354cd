"""A bundle's own samples: asked for by number, answered with their images."""

from pathlib import Path

import numpy as np
import pytest

from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.runtime.io.sample_folder import example_folders, read_sample
from cupola.runtime.predictor import Predictor
from cupola.runtime.predictors.detection3d import Detection3DPredictor

NAME = "detr3d-scenes"


@pytest.fixture(scope="module")
def predictor() -> Detection3DPredictor:
    loaded = Predictor.load(NAME)
    assert isinstance(loaded, Detection3DPredictor)
    return loaded


def test_examples_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("example", "example/10", "example/2", "example/notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sample.json").write_text("{}")
    assert [folder.name for folder in example_folders(tmp_path)] == ["example", "2", "10"]
    assert example_folders(tmp_path / "example" / "notes") == []


def test_an_example_is_its_folder(predictor: Detection3DPredictor) -> None:
    folders = example_folders(Bundle.load(NAME).path)
    assert len(folders) == 4
    for number, folder in enumerate(folders):
        (sample,) = predictor.decode({}, {"example": number})
        expected = predictor.sample(*read_sample(folder))
        np.testing.assert_array_equal(sample.images, expected.images)
        np.testing.assert_array_equal(sample.lidar2img, expected.lidar2img)


def test_images_come_along_when_asked_for(predictor: Detection3DPredictor) -> None:
    asked = {"example": 1, "return_images": True}
    (sample,) = predictor.decode({}, asked)
    arrays = predictor.encode(predictor.run([sample]), asked)
    np.testing.assert_array_equal(arrays["pixels"], sample.images)
    np.testing.assert_array_equal(arrays["lidar2img"], sample.lidar2img)
    plain = predictor.encode(predictor.run([sample]), {"example": 1})
    assert "pixels" not in plain


@pytest.mark.parametrize(
    ("tensors", "parameters", "message"),
    [
        ({}, {"example": 4}, r"example: expected 0\.\.3, got 4"),
        ({}, {"example": "first"}, "example: expected a whole number, got 'first'"),
        ({"pixels": np.zeros(1)}, {"example": 0}, "either tensors or the parameter `example`"),
    ],
)
def test_bad_numbers_are_named(
    predictor: Detection3DPredictor, tensors: dict, parameters: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.decode(tensors, parameters)


def test_a_model_without_examples_says_so() -> None:
    with pytest.raises(InputError, match="plain has no examples"):
        Detection3DPredictor("plain", "1", None).decode({}, {"example": 0})
