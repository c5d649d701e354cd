"""Reads checkpoint files without running anything that stands in them.

Safetensors files hold only tensors. PyTorch's own files are pickles: they are read by its
weights-only unpickler, and the few harmless objects that training frameworks leave beside the
tensors (a log buffer, numpy scalars, a Namespace of arguments) become inert placeholders.
"""

import json
import math
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.weights.mdlus import extract_state

# Where frameworks put the state dict: plain PyTorch and facebookresearch, mmengine and mmcv,
# FourCastNet, Lightning-like.
WRAPPERS = ("state_dict", "model", "model_state", "module")

# What transformers and we call a folder's weights, in one file or in shards; the first one counts.
WHOLE_FILES = ("model.safetensors", "weights.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

# The types of safetensors that weights usually have; the rest is left to its own reader.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# Names that published checkpoints hold beside their tensors. None of them is imported.
TOLERATED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "argparse.Namespace",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
    "_codecs.encode",
    "builtins.slice",
    "pathlib.PosixPath",
)


def _inert(name: str) -> type:
    """A class that takes any arguments and any state, and does nothing."""

    def swallow(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    return type(name.rsplit(".", 1)[-1], (), {"__init__": swallow, "__setstate__": swallow})


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its key, on the CPU.

    `path` is a .safetensors file, a PyTorch file (.pth, .pt, .bin, ...), or a folder with
    `model.safetensors`, an index of shards, or `pytorch_model.bin` as transformers writes them.
    Raises CheckpointError, which names the file, when there is none or when it is not safe.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file or folder")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".mdlus":
        with TemporaryDirectory() as folder:
            return _tensors(_read_pickle(extract_state(path, Path(folder))), path)
    return _tensors(_read_pickle(path), path)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder}: contains no {', '.join(WHOLE_FILES)}, and no index of shards"
        )
    return {key: tensor for file in files for key, tensor in read_checkpoint(file).items()}


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder: one whole file, or the shards of an index; or none."""
    for name in WHOLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEX_FILES:
        if (folder / name).is_file():
            return [folder / shard for shard in _shards(folder / name)]
    return []


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a shard index ({error!r})") from None
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the folder")
    return names


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:  # refuses headers that do not fit the file
            mapped = _map(path)
            keys = file.keys()
            return {key: mapped[key] if key in mapped else file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _map(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of usual types, as they lie in the mapped file.

    Asking safe_open for each costs five times as much. Pages that somebody writes to become his.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = {}
    for key, entry in header.items():
        dtype = DTYPES.get(entry.get("dtype"))
        offset = start + entry["data_offsets"][0] if dtype else 0
        count = math.prod(entry["shape"]) if dtype else 0
        if dtype is not None and count and offset % dtype.itemsize == 0:
            flat = torch.frombuffer(pages, dtype=dtype, count=count, offset=offset)
            tensors[key] = flat.view(entry["shape"])
    return tensors


def _read_pickle(path: Path) -> Any:
    stand_ins: list[Any] = [(_inert(name), name) for name in TOLERATED]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unusual pickle protocol is no news to the user
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since reading it would run code or it is damaged. Save it anew as "
            f"safetensors where you trust it. ({str(error).splitlines()[0]})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})") from None


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's wrappers."""
    while isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((content[key] for key in WRAPPERS if key in content), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        raise CheckpointError(
            f"{path}: holds no state dict; looked for tensors at the top and under {WRAPPERS}"
        )
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and any(isinstance(value, Tensor) for value in content.values())
