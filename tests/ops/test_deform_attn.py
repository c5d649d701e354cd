"""Multi-scale deformable attention against plain loops, grid_sample, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.ops.deform_attn import ms_deform_attn

SHAPES = [(5, 7), (3, 4), (1, 2)]
CELLS = sum(h * w for h, w in SHAPES)


def inputs(B: int = 2, Q: int = 6, M: int = 2, D: int = 3, P: int = 2) -> list[Tensor]:
    """value, locations (some outside the maps) and weights, float64."""
    draw = torch.Generator().manual_seed(0)
    value = torch.randn(B, CELLS, M, D, generator=draw, dtype=torch.float64)
    locations = torch.rand(B, Q, M, len(SHAPES), P, 2, generator=draw, dtype=torch.float64)
    weights = torch.rand(B, Q, M, len(SHAPES), P, generator=draw, dtype=torch.float64)
    return [value, locations * 1.4 - 0.2, weights / weights.sum((-2, -1), keepdim=True)]


def pixel(value: Tensor, start: int, shape: tuple[int, int], x: float, y: float) -> Tensor:
    """One bilinear sample of a level of value [S, D]."""
    height, width = shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(value.shape[1], dtype=value.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                share = (1 - abs(row - i)) * (1 - abs(column - j))
                total += share * value[start + i * width + j]
    return total


def by_loops(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Equation 3, sample by sample."""
    B, Q, M, L, P, _ = locations.shape
    out = torch.zeros(B, Q, M, value.shape[-1], dtype=value.dtype)
    starts = [sum(h * w for h, w in SHAPES[:level]) for level in range(L)]
    for b, q, m, level, p in torch.cartesian_prod(*map(torch.arange, (B, Q, M, L, P))).tolist():
        x, y = locations[b, q, m, level, p].tolist()
        sample = pixel(value[b, :, m], starts[level], SHAPES[level], x, y)
        out[b, q, m] += weights[b, q, m, level, p] * sample
    return out.flatten(2)


def by_grid_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The published formula: grid_sample on each level, heads as images."""
    B, Q, M = locations.shape[:3]
    levels = value.split([h * w for h, w in SHAPES], 1)
    sampled = []
    for level, (height, width) in enumerate(SHAPES):
        maps = levels[level].flatten(2).transpose(1, 2).reshape(B * M, -1, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))  # [B * M, D, Q, P]
    shares = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    out = (torch.stack(sampled, -2).flatten(-2) * shares).sum(-1)  # [B * M, D, Q]
    return out.view(B, -1, Q).transpose(1, 2)


@pytest.mark.parametrize("channels", [3, 24])
def test_equals_plain_loops(channels: int) -> None:
    value, locations, weights = inputs(D=channels)
    out = ms_deform_attn(value, SHAPES, locations, weights)
    torch.testing.assert_close(out, by_loops(value, locations, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [3, 24])
def test_equals_grid_sample_with_gradients(channels: int) -> None:
    ours, peers = ([each.requires_grad_() for each in inputs(D=channels)] for _ in range(2))
    out = ms_deform_attn(ours[0], SHAPES, *ours[1:])
    expected = by_grid_sample(*peers)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    expected.backward(cotangent)
    for mine, theirs in zip(ours, peers, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("channels", [3, 17])
def test_gradients_by_finite_differences(channels: int) -> None:
    given = [each.requires_grad_() for each in inputs(B=1, Q=2, P=1, D=channels)]
    assert torch.autograd.gradcheck(lambda v, s, w: ms_deform_attn(v, SHAPES, s, w), given)


@pytest.mark.parametrize("channels", [3, 24])
def test_float32_is_close(channels: int) -> None:
    value, locations, weights = inputs(D=channels)
    single = ms_deform_attn(value.float(), SHAPES, locations.float(), weights.float())
    expected = ms_deform_attn(value, SHAPES, locations, weights)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [3, 24])
def test_locations_that_are_not_finite_read_nothing(channels: int) -> None:
    value, locations, weights = inputs(D=channels)
    locations[0, 1] = float("nan")
    locations[1, 2, 0] = float("inf")
    out = ms_deform_attn(value, SHAPES, locations, weights)
    assert out[0, 1].eq(0).all()
    assert out[1, 2, :channels].eq(0).all()
    assert out.isfinite().all()


class Attention(torch.nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, SHAPES, locations, weights)


@pytest.mark.slow
def test_compile() -> None:
    given = [each.requires_grad_() for each in inputs()]
    compiled = torch.compile(ms_deform_attn, backend="aot_eager", fullgraph=True)
    out = compiled(given[0], SHAPES, *given[1:])
    torch.testing.assert_close(out, ms_deform_attn(given[0], SHAPES, *given[1:]))
    out.sum().backward()
    assert all(each.grad is not None for each in given)


def test_export() -> None:
    given = tuple(each.float() for each in inputs())
    program = torch.export.export(Attention().eval(), given)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("embedding_bag" in name or "grid_sampl" in name for name in targets)
    torch.testing.assert_close(program.module()(*given), Attention()(*given), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_onnx(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    given = tuple(each.float() for each in inputs())
    path = tmp_path / "attention.onnx"
    torch.onnx.export(Attention().eval(), given, str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    (result,) = session.run(None, {n: t.numpy() for n, t in zip(names, given, strict=True)})
    torch.testing.assert_close(torch.from_numpy(result), Attention()(*given), rtol=0, atol=1e-6)


def test_shapes_that_do_not_add_up_are_an_error() -> None:
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match=r"49 cells .* 3 levels; .*\(5, 7\).* have 47 cells"):
        ms_deform_attn(value, [(5, 7), (3, 4)], locations, weights)
