"""scale_mask_softmax: fused equals plain, forward and backward, masked rows included."""

import pytest
import torch

from cupola.parallel import causal_mask, scale_mask_softmax


def masks() -> dict[str, torch.Tensor | None]:
    padding = torch.zeros(2, 1, 1, 7, dtype=torch.bool)
    padding[1, ..., :3] = True
    whole = torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    whole[0, 0, 2] = True
    return {"none": None, "causal": causal_mask(5, 7, torch.device("cpu"))} | {
        "padding": padding,
        "a wholly masked row": whole,
    }


@pytest.mark.parametrize("name", ["none", "causal", "padding", "a wholly masked row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_equals_plain(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, cotangent = (torch.randn(2, 3, 5, 7).to(dtype) * 3 for _ in range(2))
    found = []
    for fused in (True, False):
        leaf = x.clone().requires_grad_()
        y = scale_mask_softmax(leaf, masks()[name], 0.7, fused=fused)
        y.backward(cotangent)
        found.append((y, leaf.grad))
    bound = 1e-6 if dtype == torch.float32 else 2e-2
    for fused, plain in zip(*found, strict=True):
        assert fused.dtype == dtype
        assert (fused - plain).abs().max() <= bound
    assert torch.allclose(found[0][0].float().sum(-1), torch.ones(2, 3, 5), atol=2e-2)


def test_a_fully_masked_row_is_uniform() -> None:
    mask = torch.ones(4, dtype=torch.bool)
    assert torch.equal(scale_mask_softmax(torch.randn(3, 4), mask), torch.full((3, 4), 0.25))


def test_the_last_queries_align_with_the_last_keys() -> None:
    mask = causal_mask(2, 4, torch.device("cpu"))
    assert mask.tolist() == [[False, False, False, True], [False, False, False, False]]
