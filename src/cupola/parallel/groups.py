"""Group and Mesh: which ranks compute together, laid out as tensor x data x pipeline ranks.

The tensor rank varies fastest, then data, then pipeline (Megatron-LM, arXiv 1909.08053, and its
mpu/initialize.py): rank = (pipeline * D + data) * T + tensor. There is no global state: a
layer is passed its group, and without one it runs on one process.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cupola.errors import CupolaError
from cupola.parallel.elastic import warn_of_shared_store
from cupola.parallel.watch import Watch


class GroupError(CupolaError, RuntimeError):
    """A collective that failed; the message names the collective, the group and the rank."""


@dataclass(frozen=True, eq=False)
class Group:
    """An ordered set of ranks. Size 1 needs no process group, and every collective is a no-op.

    `ranks` are the global ranks; `rank` is this process's index among them. With `fixed_order`,
    sums are added in the order of the ranks, so that results are bit-equal from run to run.
    """

    name: str = "single"
    ranks: tuple[int, ...] = (0,)
    rank: int = 0
    handle: Any = None
    watch: Watch | None = None
    fixed_order: bool = False

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def source(self) -> int:
        """The global rank of the group's first member."""
        return self.ranks[0]

    @property
    def key(self) -> str:
        return f"{self.name}:{self.ranks[0]}"

    def share(self, total: int, what: str) -> int:
        """`total / size`; ValueError if it does not divide."""
        if total % self.size:
            raise ValueError(f"{what} {total} cannot be split over {self.size} {self.name} ranks")
        return total // self.size

    @contextmanager
    def guard(self, collective: str) -> Iterator[None]:
        """Turns the failure of a collective into a GroupError that names the missing rank."""
        if self.watch is not None:
            self.watch.enter(self.key, collective)
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, GroupError):
                raise
            cause = self.watch.diagnose(self.key, self.ranks) if self.watch else str(error)
            raise GroupError(
                f"{collective} over the {self.name} ranks {list(self.ranks)} failed on rank "
                f"{self.ranks[self.rank]}: {cause}"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        return self  # a copied model still belongs to the same ranks


SINGLE = Group()


def alone(group: Group | None) -> Group:
    """`group`, or the group of this process alone."""
    return SINGLE if group is None else group


@dataclass
class Mesh:
    """This process's four groups. `stop` (or leaving the `with` block) tears everything down."""

    tensor: Group = SINGLE
    data: Group = SINGLE
    pipeline: Group = SINGLE
    model: Group = SINGLE  # tensor x pipeline: the ranks that hold one copy of the model
    device_mesh: DeviceMesh | None = None
    watch: Watch | None = field(default=None, repr=False)

    @property
    def is_first_stage(self) -> bool:
        return self.pipeline.rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline.rank == self.pipeline.size - 1

    @classmethod
    def start(
        cls,
        tensor: int = 1,
        pipeline: int = 1,
        *,
        timeout: float = 600.0,
        fixed_order: bool = False,
        init_method: str = "env://",
        rank: int | None = None,
        world_size: int | None = None,
        store: Store | None = None,
        backend: str | None = None,
    ) -> "Mesh":
        """Joins the ranks of `init_method` (torchrun's environment by default), or of a store.

        `timeout` is in seconds; a collective that some rank does not join fails after it.
        `backend` is nccl where there is CUDA, else gloo, unless it is named. Without torchrun and
        with nothing to split, the mesh is this process alone.
        """
        world = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
        if world % (tensor * pipeline):
            raise ValueError(f"{world} ranks cannot be split into {tensor} x {pipeline}")
        if world == 1:
            return cls()
        rank = int(os.environ["RANK"]) if rank is None else rank
        limit = timedelta(seconds=timeout)
        if store is None:
            warn_of_shared_store()
            store, rank, world = next(rendezvous(init_method, rank, world, timeout=limit))
        store.set_timeout(limit)
        backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        prefixed = PrefixStore("groups", store)
        dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world, timeout=limit)
        watch = Watch(PrefixStore("cupola", store), rank)
        mesh = _lay_out(tensor, pipeline, rank, world, limit, watch, fixed_order)
        atexit.register(mesh.stop)  # a thread left in the store would abort the exit
        return mesh

    def stop(self) -> None:
        """Leaves every group; a new mesh can be started afterwards. Runs at exit by itself."""
        atexit.unregister(self.stop)
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
        if dist.is_initialized():
            dist.destroy_process_group()
        self.tensor = self.data = self.pipeline = self.model = SINGLE
        self.device_mesh = None

    def __enter__(self) -> "Mesh":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def axis_ranks(grid: torch.Tensor, axis: str) -> list[tuple[int, ...]]:
    """The rank lists along one axis of the [pipeline, data, tensor] grid of ranks."""
    order = {"tensor": (0, 1, 2), "data": (0, 2, 1), "pipeline": (1, 2, 0), "model": (1, 0, 2)}[
        axis
    ]
    lines = grid.permute(order)
    lines = lines.flatten(1) if axis == "model" else lines.flatten(0, 1)
    return [tuple(line) for line in lines.tolist()]


def _lay_out(
    tensor: int,
    pipeline: int,
    rank: int,
    world: int,
    limit: timedelta,
    watch: Watch,
    fixed_order: bool,
) -> Mesh:
    grid = torch.arange(world).view(pipeline, world // (tensor * pipeline), tensor)  # [P, D, T]
    groups = {}
    for axis in ("pipeline", "data", "tensor", "model"):
        for ranks in axis_ranks(grid, axis):  # every rank must create every group, in one order
            handle = dist.new_group(list(ranks), timeout=limit)
            if rank in ranks:
                groups[axis] = Group(axis, ranks, ranks.index(rank), handle, watch, fixed_order)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    device_mesh = DeviceMesh.from_group(
        [groups[axis].handle for axis in ("pipeline", "data", "tensor")],
        device,
        mesh=grid,
        mesh_dim_names=("pipeline", "data", "tensor"),
    )
    return Mesh(
        groups["tensor"], groups["data"], groups["pipeline"], groups["model"], device_mesh, watch
    )
