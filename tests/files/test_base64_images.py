"""Images as base64 text, as JSON requests hold them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cupola.errors import InputError
from cupola.files.images import from_base64, read_image
from cupola.runtime import Predictor

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)


def file(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}", " {}\n", "urlsafe", "bare"])
def test_base64_is_read(kind: str, form: str) -> None:
    text = base64.b64encode(file(kind)).decode()
    if form == "urlsafe":
        text = base64.urlsafe_b64encode(file(kind)).decode()
    elif form == "bare":
        text = text.rstrip("=")
    else:
        text = form.format(text)
    np.testing.assert_array_equal(read_image(text.encode()), PIXELS)


def test_lines_of_76_characters_are_joined() -> None:
    np.testing.assert_array_equal(read_image(base64.encodebytes(file())), PIXELS)


def test_other_bytes_stay_as_they_are() -> None:
    for content in (file(), b"P2\n2 2\n255\n0 0\n0 0\n", b"", b"abc!"):
        assert from_base64(content) == content


def test_damage_is_an_error() -> None:
    with pytest.raises(InputError, match="camera 0: its base64 is damaged"):
        read_image(b"data:image/png;base64,iVBO!Rw0", "camera 0")
    with pytest.raises(InputError):
        read_image(b"aGVsbG8gd29ybGQ=")


def test_a_camera_model_takes_it() -> None:
    predictor = Predictor.load("detr3d-scenes")
    matrices = np.tile(np.eye(4), (6, 1, 1))
    both = []
    for content in (file(), base64.b64encode(file())):
        images = np.array([content] * 6, dtype=object)
        (sample,) = predictor.decode({"images": images, "lidar2img": matrices}, {})
        both.append(sample.images)
    np.testing.assert_array_equal(*both)
