"""Bilinear corners, and weighted sums of rows with their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.ops import bilinear
from cupola.ops.bilinear import bilinear_corners, weighted_rows


def inputs(rows: int = 7, sums: int = 5, terms: int = 3, width: int = 2) -> list[Tensor]:
    """table, index (with repeated rows) and weight, float64."""
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(rows, width, generator=draw, dtype=torch.float64).requires_grad_()
    index = torch.randint(rows, (sums, terms), generator=draw)
    weight = torch.rand(sums, terms, generator=draw, dtype=torch.float64).requires_grad_()
    return [table, index, weight]


def test_corners_interpolate_as_grid_sample_does() -> None:
    grid = torch.rand(1, 1, 200, 2, dtype=torch.float64) * 2.6 - 1.3
    image = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    x, y = grid[0, 0].unbind(-1)
    index, weight = bilinear_corners((y + 1) * 2.5 - 0.5, (x + 1) * 3.5 - 0.5, (5, 7))
    ours = weighted_rows(image[0].flatten(1).t().contiguous(), index, weight)
    expected = F.grid_sample(image, grid, align_corners=False)[0, :, 0].t()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_locations_that_are_not_finite_have_no_weight() -> None:
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    index, weight = bilinear_corners(bad, torch.ones(3), (4, 4))
    assert weight.eq(0).all()
    assert index.ge(0).all()
    assert index.lt(16).all()


def test_sums_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear, "SLICE", 12)  # two sums of three rows at a time
    table, index, weight = inputs()
    out = weighted_rows(table, index, weight)
    torch.testing.assert_close(out, (table[index] * weight[..., None]).sum(1))
    assert torch.autograd.gradcheck(lambda t, w: weighted_rows(t, index, w), (table, weight))


def test_rows_that_nobody_reads_have_no_gradient() -> None:
    table, index, weight = inputs(rows=9)
    index.clamp_(max=4)
    weighted_rows(table, index, weight).sum().backward()
    assert table.grad is not None
    assert table.grad[5:].eq(0).all()


def test_no_sums_at_all() -> None:
    table, index, weight = inputs(sums=0)
    out = weighted_rows(table, index, weight)
    assert out.shape == (0, 2)
    out.sum().backward()
    assert table.grad is not None
    assert table.grad.eq(0).all()


def test_compiled_and_exported_sums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table, index, weight = inputs()
    expected = weighted_rows(table, index, weight)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(weighted_rows(table, index, weight), expected)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(weighted_rows(table, index, weight), expected)
