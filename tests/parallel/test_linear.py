"""linear equals F.linear, whichever way it computes the product."""

import pytest
import torch
import torch.nn.functional as F

from cupola.parallel.linear import linear


@pytest.mark.parametrize("shape", [(1, 24), (2, 24), (16, 24), (17, 24), (2, 3, 24), (1, 1, 24)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_gives_the_same_product(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(10, 24).to(dtype)
    b = torch.randn(10).to(dtype) if bias else None
    with torch.no_grad():
        ours = linear(x, weight, b)
    assert ours.shape == (*shape[:-1], 10)
    assert torch.allclose(
        ours, F.linear(x, weight, b), atol=1e-5 if dtype == torch.float32 else 0.1
    )


def test_gradients_are_computed_where_they_are_enabled() -> None:
    x, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6)
    linear(x, weight).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand(4, 6), atol=1e-6)
