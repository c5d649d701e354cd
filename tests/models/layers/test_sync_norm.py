"""MMSyncBN against BatchNorm2d over the batches of both ranks, and with empty batches."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.models.layers import MMSyncBN
from cupola.registry import MODELS
from ranks import RankPool


def samples() -> torch.Tensor:
    return torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 2 + 1


def on_a_rank(mesh: Any, mode: str, shares: list[int]) -> tuple[torch.Tensor, ...]:
    norm = MMSyncBN(3, stats_mode=mode)
    norm.data_group = mesh.data
    parts = torch.split(samples(), shares)
    x = parts[mesh.data.rank].clone().requires_grad_()
    output = norm(x)
    (output**3).sum().backward()
    return output.detach(), x.grad, norm.running_mean, norm.running_var


def whole() -> tuple[torch.Tensor, torch.Tensor, Any]:
    norm, x = nn.BatchNorm2d(3), samples().requires_grad_()
    output = norm(x)
    (output**3).sum().backward()
    return output.detach(), x.grad, norm


@pytest.fixture(scope="module")
def two() -> Iterator[RankPool]:
    pool = RankPool(2)
    yield pool
    pool.close()


@pytest.mark.processes
@pytest.mark.parametrize(("mode", "shares"), [("default", [3, 3]), ("N", [4, 2]), ("N", [6, 0])])
def test_ranks_normalize_as_one_batch(two: RankPool, mode: str, shares: list[int]) -> None:
    found = two.run(on_a_rank, mode, shares, tensor=1)
    output, gradient, norm = whole()
    torch.testing.assert_close(torch.cat([each[0] for each in found]), output)
    torch.testing.assert_close(torch.cat([each[1] for each in found]), gradient)
    torch.testing.assert_close(found[0][2], norm.running_mean)
    if shares[0] == shares[1]:  # each rank takes its own number as that of all
        torch.testing.assert_close(found[1][3], norm.running_var)


@pytest.mark.processes
def test_the_mean_of_the_ranks_statistics(two: RankPool) -> None:
    found = two.run(on_a_rank, "default", [4, 2], tensor=1)
    parts = torch.split(samples(), [4, 2])
    mean = sum(part.mean((0, 2, 3)) for part in parts) / 2
    torch.testing.assert_close(found[0][2], 0.1 * mean)
    var = sum((part - mean[:, None, None]).square().mean((0, 2, 3)) for part in parts) / 2
    expected = (parts[1] - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(found[1][0], expected)


def test_an_empty_batch_changes_no_statistics() -> None:
    norm = MODELS.build({"type": "MMSyncBN", "num_features": 3})
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and not norm.weight.grad.any()
    assert not norm.running_mean.any() and (norm.running_var == 1).all()
    torch.testing.assert_close(norm(samples()), whole()[0])
    assert norm.eval()(x).shape == x.shape
    with pytest.raises(ValueError, match="'default' or 'N'"):
        MMSyncBN(3, stats_mode="mean")
