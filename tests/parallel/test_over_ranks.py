"""What the goldens do not cover: sequence parallelism, clipping, streams, order, batches, init."""

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.parallel import (
    ColumnParallelLinear,
    Group,
    Mesh,
    RandomStreams,
    RowParallelLinear,
    VocabParallelEmbedding,
    all_reduce,
    average_gradients,
    broadcast_batch,
    clip_gradients,
    gather_from_ranks,
    vocab_parallel_cross_entropy,
)
from cupola.parallel.communicate import own_slice
from cupola.parallel.groups import SINGLE
from ranks import RankPool


class Pair(nn.Module):
    """Column then row, as in an MLP; with a replicated bias at the end."""

    def __init__(self, group: Group, sequence_parallel: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        how = {"group": group, "sequence_parallel": sequence_parallel}
        self.first = ColumnParallelLinear(6, 16, **how)
        self.second = RowParallelLinear(16, 6, **how)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def example() -> Tensor:
    return torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(2))


def sequence_parallel(mesh: Mesh) -> tuple[Tensor, Tensor]:
    group = mesh.tensor
    pair = Pair(group, sequence_parallel=True)
    x = own_slice(example(), group, 1).clone().requires_grad_()
    y = pair(x)
    y.square().sum().backward()
    return y.detach(), x.grad


def test_sequence_parallel_layers_equal_plain_ones(ranks: RankPool) -> None:
    whole, x = Pair(SINGLE), example().requires_grad_()
    y = whole(x)
    y.square().sum().backward()
    results = ranks.run(sequence_parallel)
    assert torch.allclose(torch.cat([r[0] for r in results], 1), y.detach(), atol=1e-5)
    assert torch.allclose(torch.cat([r[1] for r in results], 1), x.grad, atol=1e-5)


def clipped(mesh: Mesh, norm_type: float) -> tuple[float, Tensor, Tensor]:
    pair = Pair(mesh.tensor)
    pair(example()).square().sum().backward()
    norm = clip_gradients(pair, 0.5, mesh.model, norm_type)
    return float(norm), pair.first.weight.grad, pair.second.bias.grad


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_clipping_counts_replicated_parameters_once(ranks: RankPool, norm_type: float) -> None:
    norm, weight, bias = clipped(Mesh(), norm_type)
    for rank, (theirs, part, copy) in enumerate(ranks.run(clipped, norm_type)):
        assert theirs == pytest.approx(norm, rel=1e-5)
        assert torch.allclose(part, weight.chunk(ranks.world)[rank], atol=1e-6)
        assert torch.allclose(copy, bias, atol=1e-6)


def test_clipping_equals_that_of_torch() -> None:
    pair = Pair(SINGLE)
    pair(example()).square().sum().backward()
    before = [p.grad.clone() for p in pair.parameters()]
    norm = clip_gradients(pair, 0.5, SINGLE)
    expected = torch.linalg.vector_norm(torch.cat([g.flatten() for g in before]))
    assert float(norm) == pytest.approx(float(expected))
    for parameter, gradient in zip(pair.parameters(), before, strict=True):
        assert torch.allclose(parameter.grad, gradient * 0.5 / (expected + 1e-6))


def streams(mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
    both = RandomStreams(7, mesh.tensor)
    shared = torch.rand(3)
    with both.own():
        own = torch.rand(3)
    state = both.state_dict()
    following = torch.rand(3)
    both.load_state_dict(state)
    assert torch.equal(torch.rand(3), following)
    return shared, own, following


def test_streams_are_shared_and_own(ranks: RankPool) -> None:
    alone = streams(Mesh())
    results = ranks.run(streams)
    for shared, _, following in results:  # draws from the own stream do not change the shared one
        assert torch.equal(shared, alone[0])
        assert torch.equal(following, alone[2])
    assert len({tuple(own.tolist()) for _, own, _ in results}) == ranks.world


def summed(mesh: Mesh, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + mesh.tensor.rank)
    return all_reduce(torch.randn(1000, generator=generator) * 1e3, mesh.tensor)


def test_sums_in_a_fixed_order_are_bit_equal(ranks: RankPool) -> None:
    parts = [
        torch.randn(1000, generator=torch.Generator().manual_seed(3 + r)) * 1e3
        for r in range(ranks.world)
    ]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part
    for result in ranks.run(summed, 3, fixed_order=True):
        assert torch.equal(result, expected)


def received(mesh: Mesh) -> dict[str, Tensor]:
    batch = None
    if mesh.tensor.rank == 0:
        batch = {"ids": torch.arange(6).view(2, 3), "x": torch.ones(2, dtype=torch.bfloat16)}
    return broadcast_batch(batch, mesh.tensor)


def test_the_first_rank_broadcasts_batches(ranks: RankPool) -> None:
    for batch in ranks.run(received):
        assert torch.equal(batch["ids"], torch.arange(6).view(2, 3))
        assert batch["x"].dtype == torch.bfloat16


def averaged(mesh: Mesh) -> list[Tensor]:
    parameters = [torch.zeros(3, requires_grad=True) for _ in range(2)]
    parameters[0].grad = torch.full((3,), float(mesh.data.rank))
    if mesh.data.rank == 0:  # the others have not used the second parameter
        parameters[1].grad = torch.ones(3)
    average_gradients(parameters, mesh.data)
    return [p.grad for p in parameters]


def test_data_ranks_average_their_gradients(ranks: RankPool) -> None:
    for both, once in ranks.run(averaged, tensor=1):
        assert torch.equal(both, torch.full((3,), (ranks.world - 1) / 2))
        assert torch.equal(once, torch.full((3,), 1 / ranks.world))


def drawn(mesh: Mesh) -> list[Tensor]:
    pair = Pair(mesh.tensor)
    table = VocabParallelEmbedding(10, 4, group=mesh.tensor)
    return [p.detach() for p in (pair.first.weight, pair.second.weight, table.weight)]


def test_ranks_draw_the_slices_of_one_master(ranks: RankPool) -> None:
    whole, results = drawn(Mesh()), ranks.run(drawn)
    for index, dim in ((0, 0), (1, 1)):
        assert torch.equal(torch.cat([r[index] for r in results], dim), whole[index])
    assert torch.equal(torch.cat([r[2] for r in results])[:10], whole[2])


def refused(mesh: Mesh) -> list[str]:
    table = VocabParallelEmbedding(10, 4, group=mesh.tensor)
    said = []
    for wrong in (-1, 10):
        try:
            table(torch.tensor([0, wrong]))
        except InputError as error:
            said.append(str(error))
    return said


def test_ids_out_of_range_are_refused_on_every_rank(ranks: RankPool) -> None:
    expected = ["token id -1 is not in 0..9", "token id 10 is not in 0..9"]
    assert refused(Mesh()) == expected
    assert ranks.run(refused) == [expected] * ranks.world


def large_loss(mesh: Mesh) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 32, generator=generator) * 1000
    targets = torch.randint(0, 32, (6,), generator=generator)
    mine = own_slice(logits, mesh.tensor, -1).clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(mine, targets, mesh.tensor)
    loss.sum().backward()
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(loss, expected, atol=1e-4, rtol=1e-6)
    return loss.detach(), gather_from_ranks(mine.grad, mesh.tensor)


def test_cross_entropy_at_a_logit_scale_of_a_thousand(ranks: RankPool) -> None:
    loss, gradient = large_loss(Mesh())
    for theirs, grad in ranks.run(large_loss):
        assert (theirs - loss).abs().max() <= 1e-6 * loss.abs().max()
        assert (grad - gradient).abs().max() < 1e-6
