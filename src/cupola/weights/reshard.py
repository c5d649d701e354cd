"""Loading this rank's slice of a checkpoint, and rewriting it for another number of ranks.

p shards become q with no more than one tensor in memory at a time.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import CheckpointError, did_you_mean
from cupola.parallel import Group, shard_dims
from cupola.parallel.groups import alone
from cupola.parallel.sharding import cut, true_lengths
from cupola.weights.dialects import megatron
from cupola.weights.families.bloom import BLOOM
from cupola.weights.loading import LoadReport
from cupola.weights.megatron_folder import NEWEST, VOCABULARY
from cupola.weights.sources import Shape, Source, open_source

TYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
}

HEAD = "lm_head.weight"  # saved by models that tie it to the embedding
logger = logging.getLogger("cupola")

RankSlice = tuple[str, Shape, Callable[[], Tensor]]


def load_shard(
    model: nn.Module, source: str | Path | Source, group: Group | None = None, **options: Any
) -> LoadReport:
    """Fills a model with this rank's part of a checkpoint of any sharding.

    Only that part is read. The model may be built without data (`nn.on_meta`). Options go to
    `open_source`. Raises CheckpointError when a parameter is missing or of another size.
    """
    if not isinstance(source, Source):
        options.setdefault("heads", getattr(getattr(model, "settings", None), "n_head", None))
    opened = source if isinstance(source, Source) else open_source(source, **options)
    for note in opened.notes:
        logger.warning("%s", note)
    group, dims, lengths = alone(group), shard_dims(model), true_lengths(model)
    shapes, state = opened.shapes(), {}
    for name, parameter in model.named_parameters():
        if name not in shapes:
            raise CheckpointError(f"the checkpoint has no {name}{did_you_mean(name, shapes)}")
        dim, local = dims.get(name), parameter.shape
        rows = lengths.get(name, local[dim or 0] * (group.size if dim is not None else 1))
        _check(name, shapes[name], local, dim or 0, rows, padded=opened.padded and name in lengths)
        state[name] = _part(opened, name, dim, rows, group).to(parameter.dtype)
    unused = sorted(shapes.keys() - state.keys() - {HEAD})
    if unused:
        raise CheckpointError(f"not in the model: {', '.join(unused[:6])}")
    model.load_state_dict(state, strict=False, assign=True)
    return LoadReport("sharded", len(state), [], unused, notes=list(opened.notes))


def _check(name: str, found: Shape, local: Shape, dim: int, rows: int, *, padded: bool) -> None:
    wanted = (*local[:dim], rows, *local[dim + 1 :])
    longer = padded and found[dim] > rows  # a vocabulary padded by another number of ranks
    if found != wanted and not (longer and found[:dim] == wanted[:dim]):
        raise CheckpointError(f"{name}: shape {found} in the checkpoint, {wanted} wanted")


def _part(source: Source, name: str, dim: int | None, rows: int, group: Group) -> Tensor:
    if dim is None:
        return source.whole(name)
    part = cut(rows, group.rank, group.size)
    found = source.read(name, dim, part.start, part.stop)
    missing = part.length - found.shape[dim]
    if not missing:
        return found.contiguous()
    shape = list(found.shape)
    shape[dim] = missing
    return torch.cat([found, found.new_zeros(shape)], dim)


def reshard(
    source: str | Path, folder: str | Path, size: int, dialect: str = "cupola", **options: Any
) -> Source:
    """Rewrites a checkpoint for `size` ranks; returns its source, with the differences it found.

    Dialects: "cupola" (model-rankRR.safetensors), the family's in transformers such as "bloom_hf"
    (one model.safetensors, size 1), and for BLOOM "megatron" (layer_XX-model_YY-model_states.pt).
    """
    opened, folder = open_source(source, **options), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if dialect == "megatron" and opened.family is BLOOM:
        _write_megatron(opened, folder, size)
    elif dialect == f"{opened.family.name}_hf" and size == 1:
        _write_safetensors(opened, folder / "model.safetensors", 0, 1, hugging_face=True)
    elif dialect == "cupola":
        for rank in range(size):
            _write_safetensors(opened, folder / f"model-rank{rank:02d}.safetensors", rank, size)
    else:
        raise CheckpointError(
            f"cannot write a {opened.family.name} in dialect {dialect!r} for {size} ranks"
        )
    return opened


def _slices(source: Source, rank: int, size: int) -> Iterator[RankSlice]:
    """For each parameter its name, the rank's shape, and a function that reads that part."""
    group = Group("tensor", tuple(range(size)), rank)
    for name, shape in source.shapes().items():
        dim = source.family.split_dim(name)
        local = list(shape)
        if dim is not None:
            local[dim] = cut(shape[dim], rank, size).length
        rows = shape[dim or 0]
        yield name, tuple(local), partial(_part, source, name, dim, rows, group)


def _write_safetensors(
    source: Source, path: Path, rank: int, size: int, hugging_face: bool = False
) -> None:
    family, shapes = source.family, source.shapes()
    parts = list(_slices(source, rank, size))
    table: list[tuple[str, Shape, torch.dtype]] = [
        (family.their_key(name) if hugging_face else name, shape, source.dtype(name))
        for name, shape, _ in parts
    ]
    rows = shapes[family.embedding][0]
    about = {} if hugging_face else {"ranks": str(size), "vocab_size": str(rows)}
    draft = path.with_suffix(".part")
    with draft.open("wb") as file:
        _write_header(file, table, {"format": "pt", **about})
        for (_, _, read), (_, _, dtype) in zip(parts, table, strict=True):
            data = read().to(dtype).contiguous()
            if data.numel():
                file.write(data.reshape(-1).view(torch.uint8).numpy().data)
    draft.replace(path)


def _write_header(
    file: BinaryIO, tensors: list[tuple[str, Shape, torch.dtype]], about: Mapping[str, str]
) -> None:
    """The header of a safetensors file: the length of a JSON table, and the table."""
    table: dict[str, Any] = {"__metadata__": dict(about)}
    place = 0
    for name, shape, dtype in tensors:
        end = place + torch.Size(shape).numel() * dtype.itemsize
        table[name] = {
            "dtype": TYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight
    file.write(len(text).to_bytes(8, "little") + text)


def _write_megatron(source: Source, folder: Path, size: int) -> None:
    shapes = source.shapes()
    numbers = [name.split(".")[2] for name in shapes if ".blocks." in name]
    blocks = 1 + max(int(number) for number in numbers)
    about = {"checkpoint_version": NEWEST, VOCABULARY: shapes[source.family.embedding][0]}
    for rank in range(size):
        layers: dict[int, dict[str, Callable[[], Tensor]]] = {}
        for name, _, read in _slices(source, rank, size):
            layer, key = megatron.their_place(name, blocks)
            layers.setdefault(layer, {})[key] = read
        for layer, readers in layers.items():
            state = {key: read().clone() for key, read in readers.items()}
            torch.save(state, folder / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt")
        torch.save(about, folder / f"mp_rank_{rank:02d}_model_states.pt")
