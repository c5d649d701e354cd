"""The AFNO token mixer: a two-layer network on each Fourier mode (arXiv 2111.13587, section 4).

Original: NVlabs/FourCastNet networks/afnonet.py, class AFNO2D. Same results with fewer passes over
memory: the kept modes are packed and multiplied as complex matrices, the inverse transform skips
the columns known to be zero, and on a CPU each block of channels goes through the whole filter
before the next, so that it stays in the cache.

Letters: B samples, H rows, W columns, C channels = G blocks of S channels, K kept columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError, InputError
from cupola.models.afno import real_dft
from cupola.models.afno.modes import Modes, mode_rule
from cupola.nn.layers.factory import empty

Layer = tuple[Tensor, Tensor]  # complex weight [G, S, S'] and bias [G, 1, S']


def to_spectrum(x: Tensor, columns: int, prune: bool) -> Tensor:
    """Orthonormal 2-D transform, first `columns` frequencies: [B, H, W, C] -> [B, H, K, C]."""
    if not prune:
        return torch.fft.rfft2(x, dim=(1, 2), norm="ortho")[:, :, :columns]
    rows = torch.fft.rfft(x, dim=2, norm="ortho")[:, :, :columns]
    return torch.fft.fft(rows, dim=1, norm="ortho")


def to_grid(spectrum: Tensor, width: int) -> Tensor:
    """Inverse of `to_spectrum`; absent columns count as zero: [B, H, K, C] -> [B, H, W, C]."""
    rows = torch.fft.ifft(spectrum, dim=1, norm="ortho")
    return torch.fft.irfft(rows, n=width, dim=2, norm="ortho")


def take_rows(spectrum: Tensor, modes: Modes) -> Tensor:
    """The kept rows, packed: [B, H, K, C] -> [B, R, K, C]."""
    parts = [spectrum[:, start:stop] for start, stop in modes.rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def put_rows(packed: Tensor, modes: Modes, height: int) -> Tensor:
    """Inverse of `take_rows`, zero in other rows: [B, R, K, C] -> [B, H, K, C]."""
    if modes.keeps_all_rows(height):
        return packed
    full = packed.new_zeros(packed.shape[0], height, *packed.shape[2:])
    parts = torch.split(packed, [stop - start for start, stop in modes.rows], dim=1)
    for (start, stop), part in zip(modes.rows, parts, strict=True):
        full[:, start:stop] = part
    return full


def mix(modes: Tensor, first: Layer, second: Layer, threshold: float) -> Tensor:
    """softshrink(second(relu(first(modes)))), part by part: [G, N, S] complex -> the same."""
    hidden = torch.baddbmm(first[1], modes, first[0])
    if torch.is_grad_enabled():
        hidden = torch.view_as_complex(F.relu(torch.view_as_real(hidden)))
        mixed = torch.baddbmm(second[1], hidden, second[0])
        return torch.view_as_complex(F.softshrink(torch.view_as_real(mixed), threshold))
    torch.view_as_real(hidden).relu_()
    mixed = torch.baddbmm(second[1], hidden, second[0])
    parts = torch.view_as_real(mixed)
    torch.ops.aten.softshrink.out(parts, threshold, out=parts)
    return mixed


class AFNO2D(nn.Module):
    """Adaptive Fourier filter plus its own input: [B, H, W, C] float -> [B, H, W, C], same dtype.

    modes: "fourcastnet", "transformer", "columns" or "lowpass", see cupola.models.afno.modes.
    exact: transform every column before dropping some, for bit equality with the original;
        otherwise the difference is about 2e-7 of the largest value and the filter a third faster.
    gain_grid: adds a learned factor for each kept mode and channel of this grid (h, w), as in GFNet
        (arXiv 2107.00645). AFNO applies the same network to all modes, so derivatives and shifts,
        which weigh modes by their frequency, are hard for it to learn.
    """

    def __init__(
        self,
        hidden_size: int,
        num_blocks: int = 8,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
        hidden_size_factor: int = 1,
        *,
        modes: str = "fourcastnet",
        exact: bool = False,
        gain_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if hidden_size % num_blocks:
            raise BuildError(
                f"hidden_size {hidden_size} is not a multiple of num_blocks {num_blocks}"
            )
        self.num_blocks = num_blocks
        self.block_size = hidden_size // num_blocks
        self.sparsity_threshold = sparsity_threshold
        self.fraction = hard_thresholding_fraction
        self.rule = mode_rule(modes)
        self.exact = exact
        G, S, wide = num_blocks, self.block_size, self.block_size * hidden_size_factor
        # The first axis holds real and imaginary parts, as in the published checkpoints.
        self.w1 = nn.init.normal_(empty(2, G, S, wide), std=0.02)
        self.b1 = nn.init.normal_(empty(2, G, wide), std=0.02)
        self.w2 = nn.init.normal_(empty(2, G, wide, S), std=0.02)
        self.b2 = nn.init.normal_(empty(2, G, S), std=0.02)
        self.gain: nn.Parameter | None = None
        if gain_grid is not None:
            kept = self.rule(*gain_grid, self.fraction)
            self.gain = nn.Parameter(torch.zeros(kept.height, kept.columns, hidden_size, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; computed in float32 (in float64 if x is)."""
        if x.ndim != 4 or x.shape[-1] != self.num_blocks * self.block_size:
            raise InputError(
                f"AFNO2D takes [B, H, W, {self.num_blocks * self.block_size}], got {list(x.shape)}"
            )
        dtype = x.dtype
        x = x if dtype == torch.float64 else x.float()
        modes = self.rule(x.shape[1], x.shape[2], self.fraction)
        if self.gain is not None and self.gain.shape[:2] != (modes.height, modes.columns):
            raise InputError(
                f"the filter's gain was made for another grid than {list(x.shape[1:3])}"
            )
        if modes.columns == 0 or modes.rows[0][0] >= modes.rows[0][1]:
            return x.to(dtype)
        if torch.compiler.is_exporting():
            return (self._filter_real(x, modes) + x).to(dtype)
        return self._filter(x, modes).to(dtype)

    def _filter_real(self, x: Tensor, modes: Modes) -> Tensor:
        """The filter without complex numbers, for exported programs."""
        _, H, W, _ = x.shape
        rows, scale = real_dft.kept_rows(modes), (H * W) ** -0.5
        kept = real_dft.to_spectrum(x, rows, modes.columns, scale)
        layers = [part.to(x.dtype) for part in (self.w1, self.b1, self.w2, self.b2)]
        real, imaginary = real_dft.mix(kept, layers, self.sparsity_threshold)
        if self.gain is not None:
            added = real_dft.times((self.gain[..., 0], self.gain[..., 1]), kept)
            real, imaginary = real + added[0], imaginary + added[1]
        return real_dft.to_grid((real, imaginary), rows, H, W, scale)

    def _filter(self, x: Tensor, modes: Modes) -> Tensor:
        first = self._layer(self.w1, self.b1, x.dtype)
        second = self._layer(self.w2, self.b2, x.dtype)
        gain = None if self.gain is None else torch.view_as_complex(self.gain)
        if x.device.type != "cpu":
            return self._mix_blocks(x, first, second, gain, modes) + x
        inputs = torch.split(x, self.block_size, dim=-1)
        layers = zip(*(torch.split(tensor, 1) for tensor in (*first, *second)), strict=True)
        gains = [None] * len(inputs) if gain is None else torch.split(gain, self.block_size, dim=-1)
        mixed = (
            self._mix_blocks(part, (w1, b1), (w2, b2), factor, modes)
            for part, (w1, b1, w2, b2), factor in zip(inputs, layers, gains, strict=True)
        )
        if torch.is_grad_enabled():
            return torch.cat(list(mixed), dim=-1) + x
        out = torch.empty_like(x)
        places = torch.split(out, self.block_size, dim=-1)
        for part, update, place in zip(inputs, mixed, places, strict=True):
            # The transform leaves the columns innermost: adding in that order takes twice as long.
            torch.add(update.contiguous(), part, out=place)
        return out

    def _mix_blocks(
        self, x: Tensor, first: Layer, second: Layer, gain: Tensor | None, modes: Modes
    ) -> Tensor:
        B, H, W, C = x.shape
        G = first[0].shape[0]
        kept = take_rows(to_spectrum(x, modes.columns, not self.exact), modes)
        R, K = kept.shape[1:3]
        packed = kept.reshape(B * R * K, G, C // G).transpose(0, 1)  # [G, B*R*K, S]
        mixed = mix(packed, first, second, self.sparsity_threshold)
        spectrum = mixed.transpose(0, 1).reshape(B, R, K, C)
        if gain is not None:
            spectrum = spectrum + gain * kept
        return to_grid(put_rows(spectrum, modes, H), W)

    @staticmethod
    def _layer(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Layer:
        weight, bias = weight.to(dtype), bias.to(dtype)
        return torch.complex(weight[0], weight[1]), torch.complex(bias[0], bias[1])[:, None]


class AFNO1D(AFNO2D):
    """The filter for sequences, [B, N, C] -> [B, N, C]: one row, the first N // 2 + 1 frequencies.

    Original: NVlabs/AFNO-transformer afno/afno1d.py; same weights.
    """

    def __init__(self, hidden_size: int, num_blocks: int = 8, **settings: float) -> None:
        super().__init__(hidden_size, num_blocks, modes="transformer", **settings)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return super().forward(x[:, None])[:, 0]
