"""Reads checkpoint files without executing anything in them.

Safetensors files hold only tensors. PyTorch's own files are pickles: tensors are rebuilt by
`torch_files`, and the objects that training frameworks save next to them (log buffers, configs,
arguments) become inert placeholders. A file's content decides what it is, not its suffix.
"""

import json
import math
import mmap
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.files import check_regular, open_regular
from cupola.files.weights import WEIGHT_NAMES, weight_files
from cupola.weights.mdlus import extract_state
from cupola.weights.torch_files import read_torch_file
from cupola.weights.torch_objects import UnsupportedTensor

# Where frameworks put the state dict: plain PyTorch and facebookresearch, mmengine and mmcv,
# FourCastNet, Lightning-like.
WRAPPERS = ("state_dict", "model", "model_state", "module")

MOST_WRAPPERS, MOST_DIMENSIONS = 10, 64
LARGEST_EXPANSION = 64 * 2**20  # bytes that tensors with strides of 0 repeat
LONGEST_NAME = 1000  # characters of a tensor's name
LARGEST_HEADER = 5 * 2**20  # bytes of a safetensors header; 40,000 tensors

# The types of safetensors that weights usually have; its own reader does the rest.
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


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its key, on the CPU.

    `path` is a .safetensors file, a PyTorch file (.pth, .pt, .bin, ...), or a folder with
    `model.safetensors`, an index of shards, or `pytorch_model.bin` as transformers writes them.
    Raises CheckpointError, which names the file, if it is missing or not safe to read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file or folder")
    check_regular(path, CheckpointError)
    if foreign := recognize_foreign(path):
        raise CheckpointError(f"{path}: {foreign}")
    if path.suffix == ".mdlus":
        with TemporaryDirectory() as folder:
            return _tensors(read_torch(extract_state(path, Path(folder))), path)
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return _read_safetensors(path)
    return _tensors(read_torch(path), path)


def recognize_foreign(path: Path) -> str | None:
    """What a file is that is often found in place of a checkpoint, and what to do; or None."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not text:
        return "the file is empty; download or copy it again"
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`"
    if re.match(rb"<[!?a-z]", text):
        return "a web page, not a checkpoint; the download led to a login or error page"
    if text.startswith((b'{"error', b'{"message', b'{"detail')):
        return "an error message of a server, not a checkpoint; download it again"
    if start.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file (Keras?), not a PyTorch checkpoint"
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return "the end of the file is missing; download or copy it again"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "a compressed file; unpack it first"
    if path.stat().st_size <= len(start) and re.fullmatch(rb"[\w.:]+ [ -~\s]*", text):
        return f"a text file ({_first_words(text)!r}), not a checkpoint; download it again"
    return None


def _first_words(text: bytes) -> str:
    return " ".join(text.decode("ascii", "replace").split())[:40]


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    size = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 2 <= size <= path.stat().st_size - 8


def _read_folder(folder: Path) -> dict[str, Tensor]:
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: contains no {', '.join(WEIGHT_NAMES)}")
    return {key: tensor for file in files for key, tensor in read_checkpoint(file).items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:  # refuses headers that do not fit the file
            mapped = _map(path)
            keys = file.keys()
            _check_names(keys, path)
            return {key: mapped[key] if key in mapped else file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        reason = _first_line(error)
        raise CheckpointError(f"{path}: not a readable safetensors file ({reason})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty without any, and for other or damaged files."""
    check_regular(path, CheckpointError)
    if not _is_safetensors(path):
        return {}
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, str] = file.metadata() or {}
            return found
    except (SafetensorError, OSError, ValueError):
        return {}


def check_header(path: Path) -> None:
    """Raise CheckpointError for what is no regular file, or claims a header of a wrong size."""
    with open_regular(path, 2**63, CheckpointError) as start:
        header = int.from_bytes(start.read(8), "little")
    if header > LARGEST_HEADER:
        raise CheckpointError(
            f"{path}: not a readable safetensors file (its header claims {header} bytes)"
        )


def _map(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of usual types, as they lie in the mapped file.

    Getting each from safe_open takes five times as long. Pages are copy-on-write.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        if len(entry["shape"]) > MOST_DIMENSIONS:
            raise ValueError(f"{key:.60} has {len(entry['shape'])} dimensions")
        dtype = DTYPES.get(entry.get("dtype"))
        offset = start + entry["data_offsets"][0] if dtype else 0
        count = math.prod(entry["shape"]) if dtype else 0
        if dtype is not None and not count:
            tensors[key] = torch.empty(entry["shape"], dtype=dtype)
        elif dtype is not None and offset % dtype.itemsize == 0:
            flat = torch.frombuffer(pages, dtype=dtype, count=count, offset=offset)
            tensors[key] = flat.view(entry["shape"])
    return tensors


def read_torch(path: Path) -> Any:
    """The content of a PyTorch file; CheckpointError, in one line, where it is not readable."""
    try:
        return read_torch_file(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not accepted as a checkpoint ({_first_line(error)})"
        ) from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's wrappers."""
    for _ in range(MOST_WRAPPERS):  # a dict may hold itself
        if not isinstance(content, Mapping):
            break
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        inner = inner or _only_state(content)
        if not inner:
            break
        content = inner[0]
    try:
        state = _as_tensors(content) if isinstance(content, Mapping) else {}
    except ValueError as error:  # a number of thousands of digits as a key, a view of odd bytes
        raise CheckpointError(f"{path}: not a readable checkpoint ({_first_line(error)})") from None
    if not state:
        raise CheckpointError(
            f"{path}: contains no state dict; looked for tensors at the top, under {WRAPPERS} and "
            "in the only dict that holds tensors. "
            "A model that was saved whole has to be saved again as model.state_dict()"
        )
    _check_names(state, path)
    expanded = 0
    for key, value in state.items():
        if isinstance(value, UnsupportedTensor):
            raise CheckpointError(f"{path}: {key} is sparse or quantized; only plain tensors load")
        if value.ndim > MOST_DIMENSIONS:
            raise CheckpointError(f"{path}: {key} has {value.ndim} dimensions")
        stored = value.untyped_storage().nbytes()
        expanded += max(0, value.numel() * value.element_size() - stored)
    if expanded > LARGEST_EXPANSION:
        raise CheckpointError(f"{path}: its tensors repeat what is stored, {expanded} bytes in all")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _only_state(content: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
    """The dict of tensors beside none other, under whatever name (params, net, weights)."""
    if any(isinstance(value, Tensor) for value in content.values()):
        return []
    found = [each for each in content.values() if isinstance(each, Mapping) and _as_tensors(each)]
    return found if len(found) == 1 else []


def _check_names(names: Iterable[str], path: Path) -> None:
    """Refuse names of any length: the numbers in them are layers, which dialects read."""
    longest = max(map(len, names), default=0)
    if longest > LONGEST_NAME:
        raise CheckpointError(f"{path}: a tensor's name has {longest} characters")


def _as_tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping's tensors by their key; arrays of plain pickles become tensors."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, (str, int)):  # the text of nested tuples may be endless
            continue
        if isinstance(value, (Tensor, UnsupportedTensor)):
            found[str(key)] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            native = value.astype(value.dtype.newbyteorder("="))
            found[str(key)] = torch.from_numpy(np.ascontiguousarray(native).view(np.ndarray))
    return found
