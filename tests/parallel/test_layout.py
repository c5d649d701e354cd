"""Groups: which ranks belong together, and that nothing is left after stopping."""

import pytest
import torch

from cupola.parallel import Mesh
from cupola.parallel.groups import SINGLE, Group, axis_ranks
from ranks import RankPool


def test_tensor_varies_fastest_then_data_then_pipeline() -> None:
    grid = torch.arange(8).view(2, 2, 2)  # pipeline, data, tensor
    assert axis_ranks(grid, "tensor") == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert axis_ranks(grid, "data") == [(0, 2), (1, 3), (4, 6), (5, 7)]
    assert axis_ranks(grid, "pipeline") == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert axis_ranks(grid, "model") == [(0, 1, 4, 5), (2, 3, 6, 7)]


def seen(mesh: Mesh) -> tuple:
    groups = {n: (g.ranks, g.rank) for n, g in vars(mesh).items() if isinstance(g, Group)}
    return groups, mesh.is_first_stage, mesh.is_last_stage, mesh.device_mesh.mesh_dim_names


def test_ranks_find_their_groups(ranks: RankPool) -> None:
    results = ranks.run(seen, tensor=1, pipeline=2)
    for rank, (groups, first, last, names) in enumerate(results):
        half = ranks.world // 2
        assert groups["pipeline"] == ((rank % half, rank % half + half), rank // half)
        assert groups["data"][0] == tuple(range(half)) if rank < half else True
        assert (first, last) == (rank < half, rank >= half)
        assert names == ("pipeline", "data", "tensor")


def test_a_mesh_of_one_process_needs_no_process_group() -> None:
    with Mesh.start() as mesh:
        assert mesh.tensor is SINGLE
        assert not torch.distributed.is_initialized()


def test_what_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="3 ranks cannot be split into 2 x 1"):
        Mesh.start(tensor=2, world_size=3, rank=0)
    with pytest.raises(ValueError, match="n_head 6 cannot be split over 4 tensor ranks"):
        Group("tensor", (0, 1, 2, 3)).share(6, "n_head")
