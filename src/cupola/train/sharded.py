"""Fully sharded data parallelism: `parallel=dict(fsdp=True)` in a config, under torchrun.

Each rank keeps its part of every parameter, of its gradient and of the optimizer's moments. Source:
PyTorch's FSDP2, arXiv 2304.11277. The repeated blocks of the model, such as the layers of a
transformer, are gathered one after another for their forward and backward pass; all other
parameters together.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from cupola import nn
from cupola.errors import CheckpointError
from cupola.parallel import Group

SHARD: Final = "shard"  # key of a dict in a checkpoint that stands for a tensor of the folder
FORWARDS: Final = ("loss", "predict", "predict_frame")  # what is called besides forward

ERRORS: Final = (
    *(OSError, KeyError, TypeError, ValueError),
    *(SafetensorError, CheckpointException),
)

Path_ = tuple[Any, ...]  # keys that lead to a tensor in a training state
Like = Callable[[Path_], Tensor | None]


def shard(model: Any, data: Group, device: torch.device) -> None:
    """Bridges the model to torch.nn and splits its parameters over the ranks of `data`, in place.

    Scalars stay whole. The parameters become DTensors, so optimizers are made afterwards.
    """
    mesh = DeviceMesh.from_group(data.handle, device.type)
    nn.to_torch(model)
    whole = {parameter for parameter in model.parameters() if parameter.dim() == 0}
    for block in blocks(model):
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole, reshard_after_forward=False)
    for name in FORWARDS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def blocks(model: Any) -> list[Any]:
    """The modules in lists that have children, and parameters with one path from the model.

    Parts before wholes, as fully_shard needs them.
    """
    lists = (torch.nn.ModuleList, torch.nn.Sequential)
    paths = Counter(each for _, each in model.named_parameters(remove_duplicate=False))
    shared = {parameter for parameter, count in paths.items() if count > 1}
    found = {
        child: None
        for module in model.modules()
        if isinstance(module, lists)
        for child in module.children()
        if not isinstance(child, lists) and any(True for _ in child.children())
    }
    return [each for each in reversed(found) if shared.isdisjoint(each.parameters())]


def gathered(value: Any) -> Any:
    """A nested state with whole tensors, on the CPU where they were split. All ranks call it."""
    return _replaced(value, lambda _, it: it.full_tensor().cpu() if isinstance(it, DTensor) else it)


def save_shards(state: dict[str, Any], folder: Path, data: Group) -> dict[str, Any]:
    """Writes the split tensors of a nested state to safetensors files in a new folder.

    All ranks call it. Returns the state with references to them.
    """
    if data.rank == 0 and folder.exists():
        shutil.rmtree(folder)  # of a run that was killed while it wrote
    dist.barrier(data.handle)
    split: dict[str, Any] = {}

    def refer(path: Path_, value: Tensor) -> Any:
        if not isinstance(value, DTensor):
            return value
        key = "/".join(map(str, path))
        split[key] = value
        return {SHARD: key, "shape": list(value.shape)}

    state = _replaced(state, refer)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(split, storage_writer=writer, process_group=data.handle)
    return state


def load_shards(state: Any, folder: Path, like: Like | None = None) -> Any:
    """The nested state of a checkpoint with its tensors, split as `like` has them at their path.

    Works for any number of ranks, also for one process. Raises CheckpointError if the folder lacks
    a tensor.
    """
    like = like or (lambda _: None)
    references = dict(_references(state, ()))
    try:
        tensors = _read(references, folder, like) if references else {}
    except ERRORS as error:
        raise CheckpointError(f"{folder}: no complete sharded checkpoint: {error}") from error

    def as_split(path: Path_, value: Tensor) -> Tensor:
        target = like(path)
        if not isinstance(target, DTensor) or isinstance(value, DTensor):
            return value
        if value.shape != target.shape:  # a number of steps, say
            return value
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)

    return _replaced(_filled(state, tensors), as_split)


def _read(references: dict[Path_, Any], folder: Path, like: Like) -> dict[str, Tensor]:
    reader = HuggingFaceStorageReader(str(folder))
    found: Any = reader.read_metadata().state_dict_metadata
    wanted: dict[str, Tensor] = {}
    for path, reference in references.items():
        key, target = reference[SHARD], like(path)
        present = sum(chunk.sizes.numel() for chunk in found[key].chunks)
        if present != math.prod(reference["shape"]):
            raise ValueError(f"a part of {key} is missing")
        if target is None or target.shape != found[key].size:
            target = torch.empty(found[key].size, dtype=found[key].properties.dtype)
        wanted[key] = torch.empty_like(target)
    load(wanted, storage_reader=reader, no_dist=not dist.is_initialized())
    return wanted


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _references(value: Any, path: Path_) -> Iterator[tuple[Path_, dict[str, Any]]]:
    if isinstance(value, dict) and SHARD in value:
        yield path, value
    else:
        for key, each in _children(value):
            yield from _references(each, (*path, key))


def _filled(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if SHARD in value:
            return tensors[value[SHARD]]
        return {key: _filled(each, tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, tensors) for each in value]
    return value


def _replaced(value: Any, change: Callable[[Path_, Tensor], Any], path: Path_ = ()) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, dict):
        return {key: _replaced(each, change, (*path, key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(each, change, (*path, i)) for i, each in enumerate(value)]
    return value
