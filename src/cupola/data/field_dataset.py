"""Windows of stored fields for training: a state and the states that follow it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cupola.data.fields import open_fields
from cupola.errors import DataError
from cupola.files.scientific import read_array
from cupola.registry import DATASETS
from cupola.structures.grids import name_bad_values

Statistic = str | Path | Sequence[float] | float


def read_statistic(value: Statistic, count: int) -> Tensor:
    """Means or deviations of `count` channels, [C, 1, 1], from numbers or a .npy [1, C, 1, 1].

    One number applies to all channels; a file may hold more numbers than needed, but not fewer
    (DataError).
    """
    if isinstance(value, int | float):
        return torch.full((count, 1, 1), float(value))
    numbers = read_array(value) if isinstance(value, str | Path) else np.asarray(value)
    flat = torch.from_numpy(np.asarray(numbers, np.float32)).flatten()
    if len(flat) < count:
        raise DataError(f"{value}: {len(flat)} numbers for {count} channels")
    return flat[:count, None, None]


@DATASETS.register_module()
class FieldDataset:
    """{"x": [C, H, W], "y": [steps, C_out, H, W]}, z-scored, read from disk on access.

    path: FourCastNet's HDF5 (a file, or a folder of years), netCDF or zarr.
    channels, targets: names; by default all channels, and the targets are the channels.
    means, stds: numbers or .npy files, in the order of the file's channels.
    stride: snapshots between two states. rows: keep only the first rows (720 of 721).
    forget_nan: replace NaN by 0 (the mean) instead of raising DataError.
    """

    def __init__(
        self,
        path: str | Path,
        steps: int = 1,
        stride: int = 1,
        channels: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        means: Statistic = 0.0,
        stds: Statistic = 1.0,
        rows: int | None = None,
        forget_nan: bool = False,
    ) -> None:
        self.source = open_fields(path)
        self.channels = tuple(channels or self.source.channels)
        self.targets = tuple(targets or self.channels)
        self._inputs = self.source.select(self.channels)
        self._outputs = self.source.select(self.targets)
        self._wanted = sorted({*self._inputs, *self._outputs})
        total = len(self.source.channels)
        self.means = read_statistic(means, total)
        self.stds = read_statistic(stds, total)
        self.steps, self.stride, self.rows, self.forget_nan = steps, stride, rows, forget_nan
        span = steps * stride
        self._starts = [
            (segment, time)
            for segment, length in enumerate(self.source.segments)
            for time in range(length - span)
        ]
        if not self._starts:
            raise DataError(f"{path}: no window of {span + 1} snapshots in {self.source.segments}")

    def __len__(self) -> int:
        return len(self._starts)

    def snapshot(self, segment: int, time: int) -> Tensor:
        """All channels at one time, z-scored, [C, H, W]; DataError says where it is not finite."""
        field = torch.from_numpy(self.source.read(segment, time))[:, : self.rows]
        field = (field - self.means) / self.stds
        bad = name_bad_values(field[self._wanted], [self.source.channels[i] for i in self._wanted])
        if bad and not self.forget_nan:
            raise DataError(
                f"segment {segment}, time {time}: not finite: {bad}; forget_nan=True replaces them"
            )
        return torch.nan_to_num(field, posinf=0.0, neginf=0.0) if bad else field

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        segment, start = self._starts[index]
        first = self.snapshot(segment, start)
        later = [
            self.snapshot(segment, start + number * self.stride)[self._outputs]
            for number in range(1, self.steps + 1)
        ]
        return {"x": first[self._inputs], "y": torch.stack(later)}

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stacks samples: {"x": [B, C, H, W], "y": [B, T, C_out, H, W]}."""
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
