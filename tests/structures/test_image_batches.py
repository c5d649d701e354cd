"""Sizes, normalization and padding of images."""

import pytest
import torch

from cupola.structures import normalize, pad_to_multiple
from cupola.structures.images import fit_size


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((640, 480), 800, 1333, (1067, 800)),  # these three as mmcv.rescale_size gives them
        ((480, 640), 800, 1333, (800, 1067)),
        ((1000, 100), 800, 1333, (1333, 133)),
        ((221, 442), 800, 1333, (667, 1333)),  # 666.5 is rounded up
        ((640, 480), None, 320, (320, 240)),
        ((640, 480), 240, None, (320, 240)),
        ((640, 480), None, None, (640, 480)),
        ((5000, 1), 800, 1333, (1333, 1)),
    ],
)
def test_fit_size(
    size: tuple[int, int], short: int | None, long: int | None, expected: tuple[int, int]
) -> None:
    assert fit_size(size, short, long) == expected


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation_per_channel() -> None:
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    result = normalize(image, mean=(10, 20, 30), std=(2, 4, 5))
    assert result.dtype == torch.float32
    assert result[:, 0, 0].tolist() == [-5.0, 27.0, 45.0]


def test_normalize_takes_batches_and_tensors() -> None:
    batch = torch.rand(2, 6, 3, 4, 5)
    mean, std = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 1
    torch.testing.assert_close(normalize(batch, mean, std), (batch - mean) / std, rtol=0, atol=0)


def test_pad_to_multiple_adds_zeros_at_the_right_and_bottom() -> None:
    padded = pad_to_multiple(torch.ones(2, 3, 5, 8), 4)
    assert padded.shape == (2, 3, 8, 8)
    assert padded[..., :5, :].eq(1).all()
    assert padded[..., 5:, :].eq(0).all()
    assert pad_to_multiple(padded, 4).shape == padded.shape
