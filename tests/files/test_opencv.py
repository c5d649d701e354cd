"""resize_linear against images that OpenCV 4.10 resized."""

import hashlib
from typing import Any

import numpy as np
import pytest

from cupola.files.images import resize
from cupola.files.opencv import BLOCK, resize_linear

# cv2.resize(image, (width, height)), the SHA-256 of its bytes.
RESIZED = {
    ((7, 9), (11, 13)): "4bfbe65437954814",
    ((7, 9), (4, 5)): "03e8b8d62d91410e",
    ((60, 80), (30, 40)): "27974d06cf7ad660",
    ((97, 31), (33, 17)): "3039a59f6cb404e1",
    ((5, 7), (130, 140)): "2efc059e1961b6f9",
    ((150, 120), (75, 240)): "6b402860f42002e4",
    ((1, 1), (3, 4)): "3e2cc5f16e5a96a8",
    ((240, 320), (150, 200)): "99700b3dd6a6ec76",
}


def image(height: int, width: int) -> Any:
    values = np.arange(height * width * 3) * 37 % 251
    return values.astype(np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize(("old", "new"), RESIZED)
def test_bytes_are_those_of_opencv(old: tuple[int, int], new: tuple[int, int]) -> None:
    found = resize(image(*old), new, "opencv")
    assert found.shape == (*new, 3) and found.dtype == np.uint8
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == RESIZED[old, new]


def test_floats_are_not_rounded() -> None:
    whole, fine = (resize_linear(image(40, 30).astype(kind), (64, 41)) for kind in ("u1", "f4"))
    assert fine.dtype == np.float32 and np.abs(fine - whole).max() < 1.2
    assert (fine % 1 != 0).mean() > 0.5
    assert np.array_equal(np.rint(resize_linear(image(8, 8).astype("f4"), (8, 8))), image(8, 8))


def test_rows_are_resized_block_by_block() -> None:
    flat = np.full((BLOCK + 3, 5, 3), 77, np.uint8)
    assert (resize_linear(flat, (2 * BLOCK + 1, 9)) == 77).all()
