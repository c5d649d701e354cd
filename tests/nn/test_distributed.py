"""Bridged trees on two gloo ranks: data parallel, fully sharded by block, checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola import nn
from ranks import RankPool

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def two() -> Iterator[RankPool]:
    pool = RankPool(2)  # its own: DTensor caches groups, and others start and stop them
    yield pool
    pool.close()


def model() -> Any:
    torch.manual_seed(0)
    return nn.to_torch(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))


def batch() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def single_gradient() -> torch.Tensor:
    net = model()
    net(batch()).square().mean().backward()
    return net[0].weight.grad


def data_parallel(mesh: Any) -> torch.Tensor:
    rank = torch.distributed.get_rank()
    net = torch.nn.parallel.DistributedDataParallel(model())
    net(batch()[rank * 3 : rank * 3 + 3]).square().mean().backward()
    return net.module[0].weight.grad


def fully_sharded(mesh: Any, folder: str) -> tuple[torch.Tensor, int, bool]:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, devices = torch.distributed.get_rank(), init_device_mesh("cpu", (2,))
    net = model()
    for block in (net[0], net[2], net):
        fully_shard(block, mesh=devices)
    local_rows = net[0].weight.to_local().shape[0]
    net(batch()[rank * 3 : rank * 3 + 3]).square().mean().backward()
    gradient = net[0].weight.grad.full_tensor()
    dcp.save({"model": net.state_dict()}, checkpoint_id=folder)
    before = net[2].bias.full_tensor().clone()
    with torch.no_grad():
        net[2].bias.zero_()
    state = {"model": net.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    net.load_state_dict(state["model"])
    return gradient, local_rows, torch.equal(net[2].bias.full_tensor(), before)


def test_data_parallel_averages_the_gradients(two: RankPool) -> None:
    for gradient in two.run(data_parallel):
        torch.testing.assert_close(gradient, single_gradient())


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_blocks_and_a_distributed_checkpoint(two: RankPool, tmp_path: Path) -> None:
    for gradient, local_rows, restored in two.run(fully_sharded, str(tmp_path)):
        torch.testing.assert_close(gradient, single_gradient())
        assert local_rows == 4
        assert restored


def sharded_beside_torch(mesh: Any) -> list[str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    devices = init_device_mesh("cpu", (2,))
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), model(), torch.nn.Sequential(torch.nn.ReLU()))
    for block in (net[0], net[1][0], net[1], net[2], net):
        fully_shard(block, mesh=devices)
    net(batch()).sum().backward()
    assert net[0].weight.grad is not None and net[1][0].weight.grad is not None
    return [type(part).__name__ for part in (net[0], net[1][0], net[1], net[2])]


@pytest.mark.filterwarnings("ignore")
def test_torch_and_bridged_layers_of_one_kind_are_sharded(two: RankPool) -> None:
    expected = ["FSDPLinear", "FSDPLinear", "FSDPSequential", "FSDPSequential"]
    assert two.run(sharded_beside_torch) == [expected] * 2
