"""Windows of stored fields for training: a state and the states that follow it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cupola.data.fields import open_fields
from cupola.data.matching import Expected, MatchedFields
from cupola.data.symmetries import Symmetries, turned
from cupola.data.times import seconds_of
from cupola.errors import ConfigError, DataError
from cupola.files.scientific import read_array
from cupola.registry import DATASETS
from cupola.structures.grids import Grid, name_bad_values
from cupola.structures.solar import forcing
from cupola.structures.statistics import channel_statistics
from cupola.structures.variables import channel_units

Statistic = str | Path | Sequence[float] | float | Mapping[str, float]
NAN_RULES = ("refuse", "mask", "zero")


def read_statistic(
    value: Statistic, channels: Sequence[str], what: str, listed: Sequence[str] | None = None
) -> Tensor:
    """Means or deviations of channels, [C, 1, 1], from numbers or a .npy file.

    See `channel_statistics` for which number belongs to which channel; DataError if none does.
    """
    numbers = read_array(value) if isinstance(value, str | Path) else value
    try:
        found = channel_statistics(numbers, channels, what, listed)
    except ConfigError as error:
        source = f"{value}: " if isinstance(value, str | Path) else ""
        raise DataError(f"{source}{error}") from None
    return torch.tensor(found, dtype=torch.float32)[:, None, None]


@DATASETS.register_module()
class FieldDataset:
    """{"x": [C, H, W], "y": [steps, C_out, H, W]}, z-scored, read from disk on access.

    Samples also hold "weights" [H, 1], the area weights of the rows; "mask" [steps, C_out, H, W],
    where the targets have values, with nan="mask"; and "forcings" [steps - 1, F, H, W], the
    channels that are no targets at the later times.

    path: netCDF, zarr, GRIB or FourCastNet's HDF5: a file, a folder, a pattern, or a list.
    steps: states to predict; 0 takes the targets of the same snapshot (pressure of a permeability).
    channels, targets: names; by default all channels, and the targets are the channels. Channels
        after the targets are forcings; cos_zenith is computed.
    means, stds: numbers or .npy files, see `read_statistic`.
    interval: time between two states, by default that of the file; stride: snapshots between them.
    rows: keep only the northern rows (720 of 721). grid: {"latitude": ..., "longitude": ...} that
        the files must have, by default theirs from north to south and from 0 degrees eastwards.
    first, last: dates of the first and last snapshot that windows may hold.
    symmetries: turn and mirror each window at random, see `Symmetries`; drawn from the seed.
    nan: "refuse" raises DataError; "mask" leaves such points out of the loss and gives the model
        0, the mean; "zero" takes them for the mean (also called forget_nan).
    """

    def __init__(
        self,
        path: str | Path | Sequence[str],
        steps: int = 1,
        stride: int | None = None,
        channels: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        means: Statistic = 0.0,
        stds: Statistic = 1.0,
        rows: int | None = None,
        forget_nan: bool = False,
        *,
        interval: float | None = None,
        interval_unit: str = "hours",
        units: Sequence[str] = (),
        grid: Mapping[str, Any] | None = None,
        calendar: str | None = None,
        nan: str = "refuse",
        first: str | None = None,
        last: str | None = None,
        symmetries: bool = False,
        seed: int = 0,
    ) -> None:
        if nan not in NAN_RULES:
            raise DataError(f"nan={nan!r}: expected one of {', '.join(NAN_RULES)}")
        self.nan = "zero" if forget_nan else nan
        self.source = open_fields(path)
        self.channels = tuple(channels or self.source.channels)
        self.targets = tuple(targets or self.channels)
        self._names = tuple(dict.fromkeys((*self.channels, *self.targets)))
        self._inputs = [self._names.index(name) for name in self.channels]
        self._outputs = [self._names.index(name) for name in self.targets]
        self.forcings = [i for i in self._inputs if i not in self._outputs]
        self.grid = Grid.read(grid) or self.source.grid.usual(rows)
        step = None if interval is None else seconds_of(interval, interval_unit) or interval
        expected = Expected(self._names, self._units(units), self.grid, step, calendar)
        self.fields = MatchedFields(self.source, expected)
        self.stride = stride or self.fields.stride()
        listed = self.source.channels
        self.means = read_statistic(means, self._names, "means", listed)
        self.stds = read_statistic(stds, self._names, "stds", listed)
        self.steps = steps
        self.weights = self.grid.weights()
        self._ends = self._limits(first, last)
        self._starts = self._windows(path)
        self._symmetries = Symmetries(self._names, self.means, self.stds) if symmetries else None
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the symmetries, which depend on (seed, epoch, index)."""
        self._epoch = epoch

    def _limits(self, first: str | None, last: str | None) -> tuple[float, float]:
        calendar = self.source.calendar
        return (
            float("-inf") if first is None else calendar.parse(first),
            float("inf") if last is None else calendar.parse(last),
        )

    def _within(self, segment: int, time: int, span: int) -> bool:
        times = self.source.times(segment)
        low, high = self._ends
        return times is None or (times[time] >= low and times[time + span] <= high)

    def _units(self, stated: Sequence[str]) -> list[str]:
        """The units to read in: stated ones, else those that models usually have the channel in."""
        known = dict(zip(self.channels, stated, strict=False))
        return [known.get(name) or channel_units(name) for name in self._names]

    def _windows(self, path: Any) -> list[tuple[int, int]]:
        span = self.steps * self.stride
        starts = [
            (segment, time)
            for segment, length in enumerate(self.source.segments)
            for time in range(length - span)
            if self._within(segment, time, span)
        ]
        if not starts:
            lengths = list(self.source.segments[:20])
            raise DataError(
                f"{path}: no window of {span + 1} snapshots with equal time steps; the stretches"
                f" of equal steps have {lengths} snapshots"
            )
        return starts

    def __len__(self) -> int:
        return len(self._starts)

    def snapshot(self, segment: int, time: int) -> tuple[Tensor, Tensor | None]:
        """All channels at one time, z-scored, [C, H, W], and where they have values, if masked.

        DataError says where it is not finite.
        """
        field = torch.from_numpy(self.fields.read(segment, time))
        field = (field - self.means) / self.stds
        bad = name_bad_values(field, self._names)
        if bad and self.nan == "refuse":
            raise DataError(
                f"{self.source.name}: segment {segment}, time {time}: not finite: {bad}; nan='mask'"
                " leaves such points out, nan='zero' replaces them by the mean"
            )
        mask = torch.isfinite(field) if self.nan == "mask" else None
        return torch.nan_to_num(field, posinf=0.0, neginf=0.0) if bad else field, mask

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        segment, start = self._starts[index]
        window = [
            self.snapshot(segment, start + number * self.stride) for number in range(self.steps + 1)
        ]
        if self._symmetries is not None:
            rng = np.random.default_rng([self._seed, self._epoch, index])
            turn, mirror = self._symmetries.draw(rng, len(self.grid.columns))
            window = [
                (
                    self._symmetries.apply(field, turn, mirror),
                    None if mask is None else turned(mask, turn, mirror),
                )
                for field, mask in window
            ]
        (first, _), *later = window if self.steps else [*window, *window]
        sample = {
            "x": first[self._inputs],
            "y": torch.stack([field[self._outputs] for field, _ in later]),
            "weights": self.weights,
        }
        masks = [mask[self._outputs] for _, mask in later if mask is not None]
        if masks:
            sample["mask"] = torch.stack(masks)
        if self.forcings and self.steps > 1:
            sample["forcings"] = torch.stack([field[self.forcings] for field, _ in later[:-1]])
        return sample

    def target_statistics(self) -> tuple[Tensor, Tensor]:
        """Means and deviations of the targets, [C_out, 1, 1]."""
        return self.means[self._outputs], self.stds[self._outputs]

    def preprocess(self) -> dict[str, Any]:
        """What a bundle needs to know about the data: the `preprocess` part of its config."""
        units = self._units(())
        given = dict(zip(self.source.channels, self.source.units, strict=True))
        seconds = (self.source.step() or 0.0) * self.stride
        described: dict[str, Any] = {
            "channels": list(self.channels),
            "units": [units[i] or given.get(self._names[i], "") for i in self._inputs],
            "mean": self.means.flatten()[self._inputs].tolist(),
            "std": self.stds.flatten()[self._inputs].tolist(),
            "grid": self.grid.to_config(),
            "forcings": [self._names[i] for i in self.forcings],
        }
        if self.nan == "mask":
            described["nan"] = "mask"
        if self.source.calendar.name and seconds:
            described |= {"interval": seconds / 3600, "interval_unit": "hours"}
            described["calendar"] = self.source.calendar.name
        return described

    def start_dates(self) -> list[str]:
        """The dates of the first snapshots of the windows; empty if the data has none."""
        times = [(self.source.times(segment), time) for segment, time in self._starts]
        if self.source.calendar.name is None:
            return []
        return [str(self.source.calendar.label(t[i])) for t, i in times if t is not None]

    def write_examples(self, folder: Path) -> None:
        """Writes all windows as examples of a bundle, [N, 1 + steps, C, H, W] in physical units.

        Channels that follow from the date are left out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        computed = [forcing(name, 0.0, 0.0, Grid((), ())) is not None for name in self.channels]
        given = [i for i, known in zip(self._inputs, computed, strict=True) if not known]
        runs = [
            torch.stack(
                [
                    torch.from_numpy(self.fields.read(segment, start + n * self.stride))[given]
                    for n in range(self.steps + 1)
                ]
            )
            for segment, start in self._starts
        ]
        save_file({"fields": torch.stack(runs)}, folder / "flows.safetensors")
        request = {"inputs": [], "parameters": {"example": 0, "steps": 1}}
        (folder / "request.json").write_text(json.dumps(request) + "\n")

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stacks samples: {"x": [B, C, H, W], "y": [B, T, C_out, H, W], "weights": [H, 1], ...}."""
        stacked = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
        stacked["weights"] = samples[0]["weights"]
        return stacked
