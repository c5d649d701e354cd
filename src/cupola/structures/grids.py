"""Fields on a grid: latitude weights, weighted means, relative errors, power spectra.

Letters: B samples, C channels, H rows (north to south), W columns (eastwards). All functions take
[..., H, W] and reduce the last two axes unless stated otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Coordinates of a regular grid in degrees, or in domain lengths when `spherical` is False."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    spherical: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.rows), len(self.columns)

    @staticmethod
    def globe(height: int, width: int) -> "Grid":
        """The regular global grid from 90 degrees down, with equal steps in both axes."""
        step = 360.0 / width
        return Grid(
            tuple(90.0 - step * row for row in range(height)),
            tuple(step * column for column in range(width)),
        )

    @staticmethod
    def torus(height: int, width: int, length: float = 1.0) -> "Grid":
        """A doubly periodic box of side `length`."""
        return Grid(
            tuple(length * row / height for row in range(height)),
            tuple(length * column / width for column in range(width)),
            spherical=False,
        )

    def weights(self) -> Tensor:
        """Area weights of the rows, [H, 1], mean 1: cosine of latitude, or ones on a torus."""
        if not self.spherical:
            return torch.ones(len(self.rows), 1)
        return latitude_weights(torch.tensor(self.rows))


def latitude_weights(latitudes: Tensor) -> Tensor:
    """cos(latitude) over its mean, [H] degrees -> [H, 1] (FourCastNet, equation 2)."""
    weights = torch.cos(torch.deg2rad(latitudes.double())).clamp(min=0)
    return (weights / weights.mean()).float()[:, None]


def weighted_mean(field: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of [..., H, W] over the grid with row weights of mean 1 -> [...]."""
    return (field if weights is None else field * weights).mean(dim=(-2, -1))


def rmse(prediction: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted root mean square error over the grid, [..., H, W] -> [...]."""
    return weighted_mean((prediction - truth) ** 2, weights).sqrt()


def anomaly_correlation(
    prediction: Tensor, truth: Tensor, climate: Tensor, weights: Tensor | None = None
) -> Tensor:
    """ACC of the anomalies from `climate` ([C, H, W], the time mean), -1..1, [..., H, W] -> [...].

    FourCastNet equation 3: the anomalies are not centered again.
    """
    p, t = prediction - climate, truth - climate
    spread = weighted_mean(p * p, weights) * weighted_mean(t * t, weights)
    return weighted_mean(p * t, weights) / spread.sqrt().clamp(min=torch.finfo(p.dtype).tiny)


def relative_l2(prediction: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """|prediction - truth| / |truth| over all but the first axis, [B, ..., H, W] -> [B]."""
    root = None if weights is None else weights.sqrt()
    difference, size = prediction - truth, truth
    if root is not None:
        difference, size = difference * root, size * root
    return difference.flatten(1).norm(dim=1) / size.flatten(1).norm(dim=1)


def power_spectrum(field: Tensor) -> Tensor:
    """Power by zonal wave number, averaged over rows: [..., H, W] -> [..., W // 2 + 1].

    Sums to the mean square of the field (Parseval), so spectra of different grids compare.
    """
    width = field.shape[-1]
    power = (torch.fft.rfft(field, dim=-1) / width).abs().square()
    power[..., 1 : (width + 1) // 2] *= 2  # each also represents its conjugate
    return power.mean(dim=-2)


def radial_spectrum(field: Tensor) -> Tensor:
    """Power by isotropic wave number on a square torus: [..., N, N] -> [..., N // 2 + 1].

    Modes beyond N / 2 (the corners) are left out.
    """
    size = field.shape[-1]
    power = (torch.fft.fft2(field) / field.shape[-2] / size).abs().square()
    k = torch.fft.fftfreq(size, 1 / size, device=field.device)
    shell = (k[:, None] ** 2 + k[None, :] ** 2).sqrt().round().long().flatten()
    spectrum = power.new_zeros(*power.shape[:-2], int(shell.max()) + 1)
    spectrum.index_add_(-1, shell, power.flatten(-2))
    return spectrum[..., : size // 2 + 1]


def name_bad_values(field: Tensor, channels: Sequence[str]) -> str | None:
    """Describes where a field [C, H, W] is NaN or infinite, by channel; None if nowhere."""
    bad = ~torch.isfinite(field)
    found = []
    for index in bad.flatten(1).any(dim=1).nonzero().flatten().tolist():
        name = channels[index] if index < len(channels) else f"channel {index}"
        row, column = bad[index].nonzero()[0].tolist()
        count = int(bad[index].sum())
        found.append(
            f"{name} ({count} of {bad[index].numel()}, first at row {row}, column {column})"
        )
    return ", ".join(found) or None
