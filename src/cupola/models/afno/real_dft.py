"""Two-dimensional Fourier transforms in real arithmetic, as products with matrices.

Exported programs use them: ONNX has no complex numbers, and its runtimes differ in their Fourier
transforms. Letters: B samples, H rows, W columns, C channels, R kept rows, K kept columns.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.afno.modes import Modes

Parts = tuple[Tensor, Tensor]  # real and imaginary


def waves(frequencies: Sequence[int], size: int, like: Tensor) -> Parts:
    """cos and sin of 2 pi f n / size, each [frequencies, size]."""
    f = torch.tensor(list(frequencies), dtype=torch.float64, device=like.device)
    n = torch.arange(size, dtype=torch.float64, device=like.device)
    angle = (2 * math.pi / size) * ((f[:, None] * n) % size)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def kept_rows(modes: Modes) -> list[int]:
    """The row frequencies that a selection keeps, in the order of the packed spectrum."""
    return [row for start, stop in modes.rows for row in range(start, stop)]


def to_spectrum(x: Tensor, rows: Sequence[int], columns: int, scale: float) -> Parts:
    """Some frequencies of a real field, [B, H, W, C] -> real and imaginary [B, R, K, C]."""
    _, H, W, _ = x.shape
    cos, sin = waves(range(columns), W, x)
    real, imaginary = cos @ x, -(sin @ x)  # [B, H, K, C]
    real, imaginary = real.transpose(1, 2), imaginary.transpose(1, 2)  # [B, K, H, C]
    cos, sin = waves(rows, H, x)
    real, imaginary = (
        cos @ real + sin @ imaginary,
        cos @ imaginary - sin @ real,
    )  # [B, K, R, C]
    return scale * real.transpose(1, 2), scale * imaginary.transpose(1, 2)


def to_grid(parts: Parts, rows: Sequence[int], height: int, width: int, scale: float) -> Tensor:
    """Inverse of `to_spectrum`; absent frequencies count as zero: [B, R, K, C] -> [B, H, W, C].

    Column frequencies but 0 and the highest stand for their conjugates, too.
    """
    real, imaginary = (part.transpose(1, 2) for part in parts)  # [B, K, R, C]
    columns = real.shape[1]
    cos, sin = waves(rows, height, real)
    cos, sin = cos.t(), sin.t()  # [H, R]
    real, imaginary = cos @ real - sin @ imaginary, cos @ imaginary + sin @ real  # [B, K, H, C]
    real, imaginary = real.transpose(1, 2), imaginary.transpose(1, 2)  # [B, H, K, C]
    cos, sin = waves(range(columns), width, real)
    counts = torch.tensor([1.0 if k in (0, width / 2) else 2.0 for k in range(columns)]).to(real)
    cos, sin = (counts[:, None] * cos).t(), (counts[:, None] * sin).t()  # [W, K]
    return scale * (cos @ real - sin @ imaginary)


def times(a: Parts, b: Parts) -> Parts:
    """The complex product a b, element by element."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def linear(x: Parts, weight: Tensor, bias: Tensor) -> Parts:
    """A complex layer for each block: [G, N, S] with weight [2, G, S, S'] and bias [2, G, S']."""
    real = x[0] @ weight[0] - x[1] @ weight[1] + bias[0][:, None]
    imaginary = x[1] @ weight[0] + x[0] @ weight[1] + bias[1][:, None]
    return real, imaginary


def mix(x: Parts, layers: Sequence[Tensor], threshold: float) -> Parts:
    """softshrink(second(relu(first(x)))) for packed modes [B, R, K, C]; layers: w1, b1, w2, b2."""
    w1, b1, w2, b2 = layers
    G, shape = w1.shape[1], x[0].shape
    blocks = [part.reshape(-1, G, shape[-1] // G).transpose(0, 1) for part in x]  # [G, N, S]
    real, imaginary = linear((blocks[0], blocks[1]), w1, b1)
    mixed = linear((F.relu(real), F.relu(imaginary)), w2, b2)
    packed = [F.softshrink(part, threshold).transpose(0, 1).reshape(shape) for part in mixed]
    return packed[0], packed[1]
