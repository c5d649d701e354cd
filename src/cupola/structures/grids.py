"""Fields on a grid: latitude weights, weighted means, relative errors, power spectra.

Letters: B samples, C channels, H rows (north to south), W columns (eastwards). All functions take
[..., H, W] and reduce the last two axes unless stated otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cupola.errors import ConfigError


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
        """The global grid of a size that is stated without coordinates, from 90 degrees down.

        With W / 2 or W / 2 + 1 rows the steps of both axes are equal, as in ERA5 (720 rows are its
        721 without the south pole); other sizes reach from pole to pole.
        """
        step = 360.0 / width
        down = step if height - width / 2 in (0, 0.5, 1) else 180.0 / max(height - 1, 1)
        return Grid(
            tuple(90.0 - down * row for row in range(height)),
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

    @staticmethod
    def read(about: Mapping[str, Any] | None) -> "Grid | None":
        """The grid that a config describes, None for a model that takes any.

        {"latitude": AXIS, "longitude": AXIS}, {"y": AXIS, "x": AXIS} in domain lengths, or only a
        "size" [H, W] with "kind" "globe" or "torus" (and its "length"). An AXIS is a list of
        values, or {"start", "step", "size"} for one with equal steps.
        """
        if about is None:
            return None
        for rows, columns, spherical in (("latitude", "longitude", True), ("y", "x", False)):
            if rows in about and columns in about:
                return Grid(axis_values(about[rows]), axis_values(about[columns]), spherical)
        if "size" not in about:
            raise ConfigError(f"a grid needs latitude and longitude, or a size; it has {[*about]}")
        height, width = about["size"]
        if about.get("kind", "globe") == "torus":
            return Grid.torus(height, width, about.get("length", 1.0))
        return Grid.globe(height, width)

    def usual(self, rows: int | None = None) -> "Grid":
        """From north to south and eastwards, from 0 degrees if the columns go around the globe.

        rows: keep only the first rows. Other grids than the globe keep their order.
        """
        if not self.spherical:
            return Grid(self.rows[:rows], self.columns, spherical=False)
        north_first = tuple(sorted(self.rows, reverse=True)[:rows])
        east = sorted(self.columns)
        turned = sorted({round(value % 360.0, 6) for value in east})
        step = min((b - a for a, b in pairwise(east)), default=360.0)
        around = len(turned) * step > 360.0 - 0.5 * step
        return Grid(north_first, tuple(turned if around else east))

    def to_config(self) -> dict[str, Any]:
        """The coordinates as plain values, which `read` takes."""
        names = ("latitude", "longitude") if self.spherical else ("y", "x")
        sides = (short_axis(self.rows), short_axis(self.columns))
        return dict(zip(names, sides, strict=True))

    def __str__(self) -> str:
        names = ("latitude", "longitude") if self.spherical else ("y", "x")
        sides = (axis_text(name, side) for name, side in zip(names, self.sides, strict=True))
        return f"{len(self.rows)} x {len(self.columns)} points, {', '.join(sides)}"

    @property
    def sides(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(rows, columns)."""
        return self.rows, self.columns

    def weights(self) -> Tensor:
        """Area weights of the rows, [H, 1], mean 1: cosine of latitude, or ones on a torus."""
        if not self.spherical:
            return torch.ones(len(self.rows), 1)
        return latitude_weights(torch.tensor(self.rows))


def axis_values(axis: Any) -> tuple[float, ...]:
    """The coordinates of an axis in a config: a list, or {"start", "step", "size"}."""
    if isinstance(axis, Mapping):
        return tuple(axis["start"] + axis["step"] * i for i in range(axis["size"]))
    return tuple(float(value) for value in axis)


def short_axis(values: Sequence[float]) -> Any:
    """An axis for a config: start, step and size if they give every value, else the values."""
    if len(values) < 2:
        return list(values)
    step = round((values[-1] - values[0]) / (len(values) - 1), 9)
    axis = {"start": values[0], "step": step, "size": len(values)}
    pairs = zip(axis_values(axis), values, strict=True)
    return axis if all(abs(a - b) < 1e-9 for a, b in pairs) else list(values)


def axis_text(name: str, values: Sequence[float]) -> str:
    """An axis in words: `latitude 90 to -90 by -0.25`."""
    if not values:
        return f"no {name}"
    text = f"{name} {values[0]:.6g} to {values[-1]:.6g}"
    axis = short_axis([round(value, 4) for value in values])
    return f"{text} by {axis['step']:.6g}" if isinstance(axis, dict) else f"{text}, uneven"


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
