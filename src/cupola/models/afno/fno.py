"""FNO: the Fourier neural operator (arXiv 2010.08895), a baseline for AFNO.

Letters: B samples, C channels, H rows, W columns, M row modes per sign, K column modes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.afno import real_dft
from cupola.models.afno.layers import pair
from cupola.models.afno.operator import FieldOperator
from cupola.registry import MODELS


class SpectralConv2d(nn.Module):
    """A full matrix for each kept Fourier mode: [B, C_in, H, W] -> [B, C_out, H, W].

    modes: (M, K); rows of frequency -M..M-1 and columns 0..K-1 are kept, all others set to zero.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, int]) -> None:
        super().__init__()
        self.out_channels, self.modes = out_channels, modes
        scale = 1.0 / (in_channels * out_channels)
        # The last axis holds real and imaginary parts, since not every optimizer takes complex.
        shape = (2 * modes[0], modes[1], in_channels, out_channels, 2)
        self.weight = nn.Parameter(scale * torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H, W]; InputError if the grid has too few modes."""
        (M, K), (H, W) = self.modes, x.shape[-2:]
        if 2 * M > H or K > W // 2 + 1:
            raise InputError(f"a grid of {H} x {W} has fewer modes than {2 * M} x {K}")
        if torch.compiler.is_exporting():
            return self._real(x)
        spectrum = torch.fft.rfft2(x, norm="forward")[..., :K]
        kept = torch.cat([spectrum[:, :, :M], spectrum[:, :, -M:]], dim=2)  # [B, C_in, 2M, K]
        mixed = torch.einsum("bimk,mkio->bomk", kept, torch.view_as_complex(self.weight))
        full = mixed.new_zeros(x.shape[0], self.out_channels, H, K)
        full[:, :, :M], full[:, :, -M:] = mixed[:, :, :M], mixed[:, :, M:]
        rows = torch.fft.ifft(full, dim=2, norm="forward")
        return torch.fft.irfft(rows, n=W, dim=3, norm="forward")

    def _real(self, x: Tensor) -> Tensor:
        """The same without complex numbers, for exported programs."""
        (M, K), (H, W) = self.modes, x.shape[-2:]
        rows = [*range(M), *range(H - M, H)]
        real, imaginary = real_dft.to_spectrum(x.permute(0, 2, 3, 1), rows, K, 1 / (H * W))
        wr, wi = self.weight[..., 0], self.weight[..., 1]  # [2M, K, I, O]
        real, imaginary = (
            (real[..., None, :] @ wr - imaginary[..., None, :] @ wi)[..., 0, :],
            (real[..., None, :] @ wi + imaginary[..., None, :] @ wr)[..., 0, :],
        )  # [B, 2M, K, O]
        return real_dft.to_grid((real, imaginary), rows, H, W, 1.0).permute(0, 3, 1, 2)


class FNOBlock(nn.Module):
    """Spectral plus pointwise convolution, then GELU except in the last block."""

    def __init__(self, width: int, modes: tuple[int, int], last: bool) -> None:
        super().__init__()
        self.spectral = SpectralConv2d(width, width, modes)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = self.spectral(x) + self.pointwise(x)
        return y if self.last else F.gelu(y)


@MODELS.register_module()
class FNO(FieldOperator):
    """Lifting, spectral blocks, projection: [B, C_in, H, W] -> [B, C_out, H, W], on any grid.

    coordinates: append the row and column coordinate (0..1) to the input, as the original does.
    """

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 1,
        modes: int | tuple[int, int] = 12,
        width: int = 32,
        depth: int = 4,
        projection: int = 128,
        coordinates: bool = True,
        latitude_weights: bool = False,
    ) -> None:
        super().__init__(latitude_weights)
        self.coordinates, self.in_chans, self.modes = coordinates, in_chans, pair(modes)
        self.lifting = nn.Conv2d(in_chans + 2 * coordinates, width, 1)
        self.blocks = nn.ModuleList(
            [FNOBlock(width, pair(modes), last=i == depth - 1) for i in range(depth)]
        )
        self.projection = nn.Sequential(
            nn.Conv2d(width, projection, 1), nn.GELU(), nn.Conv2d(projection, out_chans, 1)
        )

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """[C_in, H, W] of an input: any grid will do that has the modes."""
        rows, columns = self.modes
        return self.in_chans, max(64, 2 * rows), max(64, 2 * columns)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H, W]."""
        if self.coordinates:
            B, _, H, W = x.shape
            rows = torch.linspace(0, 1, H, device=x.device, dtype=x.dtype)[:, None].expand(
                B, 1, H, W
            )
            columns = torch.linspace(0, 1, W, device=x.device, dtype=x.dtype).expand(B, 1, H, W)
            x = torch.cat([x, rows, columns], dim=1)
        x = self.lifting(x)
        for block in self.blocks:
            x = block(x)
        return self.projection(x)
