"""Masks of one image: bitmaps, COCO's run-length encoding (RLE), and their boxes.

An RLE is {"size": [height, width], "counts": ...}: the lengths of runs of 0 and 1, in turns and
beginning with 0, down the columns. "counts" is a list, or the compressed string of pycocotools,
whose results these functions equal. Encodings from files are checked before memory is allocated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bitmap = NDArray[np.bool_]
RLE = dict[str, Any]
MAX_CELLS = 50_000_000  # of one mask, as of an image; larger sizes are refused


def encode_rle(mask: Tensor | Bitmap) -> RLE:
    """A mask [H, W], bool -> its compressed RLE, with "counts" as an ASCII string."""
    array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask, dtype=bool)
    flat = np.concatenate(([False], array.ravel(order="F"), [False]))
    changes = np.flatnonzero(flat[1:] != flat[:-1])  # starts and ends of runs of 1
    edges = np.concatenate(([0], changes, [array.size]))
    counts = np.diff(edges)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return {"size": [int(side) for side in array.shape], "counts": compress_counts(counts)}


def decode_rle(rle: Mapping[str, Any]) -> Bitmap:
    """An RLE, compressed or not -> the mask [H, W]. Raises ValueError if it is not one."""
    height, width = _size(rle)
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        runs = decompress_counts(counts)
    else:
        runs = _runs(counts)
    if (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"counts cover {int(runs.sum())} pixels of {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(isinstance(side, int) and side >= 0 for side in size)
        or size[0] * size[1] > MAX_CELLS
    ):
        raise ValueError(f"size should be [height, width] in pixels, got {size!r}")
    return size[0], size[1]


def _runs(counts: Any) -> NDArray[np.int64]:
    if not isinstance(counts, Sequence) or not all(isinstance(run, int) for run in counts):
        raise ValueError("counts should be a list of integers or a compressed string")
    if any(not 0 <= run <= MAX_CELLS for run in counts):
        raise ValueError("counts should be lengths of runs in pixels")
    return np.array(counts, dtype=np.int64)


def compress_counts(counts: Sequence[int] | NDArray[Any]) -> str:
    """Runs -> pycocotools' string: from the third on differences to the run two before, in base 32.

    A character holds 5 bits, least significant first; 32 marks that more follow; 48 is added.
    """
    runs = np.asarray(counts, dtype=np.int64)
    values = runs.copy()
    values[3:] -= runs[1:-2]
    pieces = []
    for value in values.tolist():
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = value != (-1 if digit & 16 else 0)
            pieces.append(chr(digit + 48 + (32 if more else 0)))
    return "".join(pieces)


def decompress_counts(text: str | bytes) -> NDArray[np.int64]:
    """The inverse of `compress_counts`. Raises ValueError if the text is not such a string."""
    data = text.encode("latin-1", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise ValueError("counts is not a compressed string of run lengths")
    runs: list[int] = []
    value = shift = 0
    for code in codes.tolist():
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if not 0 <= value <= MAX_CELLS or shift > 40:
            raise ValueError("counts holds a run of impossible length")
        runs.append(value)
        value = shift = 0
    return np.array(runs, dtype=np.int64)


def mask_boxes(masks: Tensor) -> Tensor:
    """The xyxy boxes around masks [N, H, W] -> [N, 4], float32; zeros for an empty mask.

    The right and bottom edges are those of the last pixel, as in MMDetection's mask2bbox.
    """
    N, H, W = masks.shape
    columns, rows = masks.any(1), masks.any(2)  # [N, W], [N, H]
    x, y = torch.arange(W, device=masks.device), torch.arange(H, device=masks.device)
    left = torch.where(columns, x, W).amin(1) if W else x.new_zeros(N)
    top = torch.where(rows, y, H).amin(1) if H else y.new_zeros(N)
    right = torch.where(columns, x + 1, 0).amax(1) if W else x.new_zeros(N)
    bottom = torch.where(rows, y + 1, 0).amax(1) if H else y.new_zeros(N)
    boxes = torch.stack((left, top, right, bottom), 1).float()
    return torch.where(columns.any(1)[:, None], boxes, 0.0)


def pad_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [N, h, w], False at the right and bottom up to `size` = (height, width)."""
    height, width = size
    bottom, right = height - masks.shape[-2], width - masks.shape[-1]
    return torch.nn.functional.pad(masks, (0, right, 0, bottom))
