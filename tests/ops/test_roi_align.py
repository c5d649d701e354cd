"""RoIAlign against plain loops, finite differences and onnxruntime's operator."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.ops.roi_align import roi_align

# image, x0, y0, x1, y1: inside, large, thin, beyond the borders, far outside, empty
ROIS = [
    [0, 4.0, 6.0, 20.0, 30.0],
    [1, 0.0, 0.0, 79.0, 63.0],
    [1, 30.2, 5.1, 33.0, 60.9],
    [0, -20.0, -9.0, 50.0, 20.5],
    [1, 70.0, 50.0, 120.0, 90.0],
    [0, 500.0, 500.0, 520.0, 510.0],
    [0, 10.0, 10.0, 10.0, 10.0],
]
SCALE = 0.25  # of maps 16 x 20 for images 64 x 80


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 20, generator=draw, dtype=torch.float64)
    return x.to(dtype), torch.tensor(ROIS, dtype=dtype)


def point(x: Tensor, y: float, column: float) -> Tensor:
    """One sample of a map [C, H, W] by the rules of the original."""
    H, W = x.shape[1:]
    if y < -1 or y > H or column < -1 or column > W:
        return torch.zeros(len(x), dtype=x.dtype)
    y, column = max(y, 0.0), max(column, 0.0)
    low, left = int(y), int(column)
    high, right = min(low + 1, H - 1), min(left + 1, W - 1)
    if low >= H - 1:
        low, y = H - 1, float(H - 1)
    if left >= W - 1:
        left, column = W - 1, float(W - 1)
    down, across = y - low, column - left
    return (
        (1 - down) * ((1 - across) * x[:, low, left] + across * x[:, low, right])
        + down * ((1 - across) * x[:, high, left] + across * x[:, high, right])
    )  # fmt: skip


def by_loops(x: Tensor, rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool, mode: str):
    out = torch.zeros(len(rois), x.shape[1], *size, dtype=x.dtype)
    for r, (image, *box) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (side * SCALE - (0.5 if aligned else 0) for side in box)
        width, height = x1 - x0, y1 - y0
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        g, k = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    point(
                        x[int(image)],
                        y0 + i * bin_h + (iy + 0.5) * bin_h / g,
                        x0 + j * bin_w + (ix + 0.5) * bin_w / k,
                    )
                    for iy in range(g)
                    for ix in range(k)
                ]
                if samples:
                    joined = torch.stack(samples)
                    out[r, :, i, j] = joined.amax(0) if mode == "max" else joined.mean(0)
    return out


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_equals_plain_loops(ratio: int, aligned: bool, mode: str) -> None:
    x, rois = inputs()
    out = roi_align(x, rois, (3, 4), SCALE, ratio, aligned, mode)
    expected = by_loops(x, rois, (3, 4), ratio, aligned, mode)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients(mode: str) -> None:
    x, rois = inputs()
    x = x[:, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, 2, SCALE, 0, mode=mode), x)


def test_no_gradient_for_the_regions() -> None:
    x, rois = inputs()
    out = roi_align(x.requires_grad_(), rois.requires_grad_(), 7, SCALE)
    out.sum().backward()
    assert rois.grad is None


def test_no_regions() -> None:
    x, rois = inputs()
    assert roi_align(x, rois[:0], 7, SCALE).shape == (0, 3, 7, 7)


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="'avg' or 'max', got 'mean'"):
        roi_align(*inputs(), 7, mode="mean")


class Pooling(torch.nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        return roi_align(x, rois, (7, 7), SCALE, **self.settings)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_export(mode: str) -> None:
    given = inputs(torch.float32)
    program = torch.export.export(Pooling(mode=mode).eval(), given)
    torch.testing.assert_close(program.module()(*given), Pooling(mode=mode)(*given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_onnx(ratio: int, aligned: bool, tmp_path) -> None:
    """Exported as ONNX's RoiAlign, whose implementation in onnxruntime is not related to ours."""
    runtime = pytest.importorskip("onnxruntime")
    x, rois = inputs(torch.float32)
    rois = rois[:-1]  # what an empty region gives differs
    pooling = Pooling(sampling_ratio=ratio, aligned=aligned).eval()
    path = tmp_path / "pooling.onnx"
    torch.onnx.export(pooling, (x, rois), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    (out,) = session.run(None, dict(zip(names, (x.numpy(), rois.numpy()), strict=True)))
    torch.testing.assert_close(torch.from_numpy(out), pooling(x, rois), rtol=0, atol=1e-5)
