"""Scores of forecasts by lead time, region and channel, over many starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.files.scientific import read_array
from cupola.metrics.scores import Area, anomaly_correlation, crps, rank_counts
from cupola.registry import METRICS
from cupola.structures.climate import published_climate
from cupola.structures.grids import Grid, power_spectrum

# name -> (power of the mean over starts, what it is)
MEASURES = {
    "rmse": (0.5, "root of the mean squared error: mean over the grid and over starts, then root"),
    "bias": (1.0, "mean of forecast minus truth"),
    "mae": (1.0, "mean absolute error"),
    "acc": (1.0, "anomaly correlation about the climatology, mean over starts"),
    "crps": (1.0, "fair continuous ranked probability score"),
    "spread": (0.5, "root of the mean variance of the members, with M - 1"),
    "relative_l2": (1.0, "norm of the error over the norm of the truth, mean over starts"),
}


@dataclass
class LeadTimes:
    """Sums by step, region and channel over forecasts that are added one step at a time.

    weights: row weights [H, 1], None for equal ones. regions: masks [H, W] by name, None for the
    whole grid. An ensemble's rmse, bias, mae and acc are those of its mean.
    """

    weights: Tensor | None = None
    regions: Mapping[str, Tensor | None] = field(default_factory=lambda: {"global": None})
    sums: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=dict)
    counts: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=dict)
    spectra: dict[int, list[Tensor]] = field(default_factory=dict)
    ranks: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    members: int = 1

    def update(
        self, step: int, forecast: Tensor, truth: Tensor, climate: Tensor | None = None
    ) -> None:
        """Adds a state, [C, H, W] or [M, C, H, W] for an ensemble, at `step` (1 is the first).

        truth [C, H, W], with NaN where there is none. climate [C, H, W]: what ACC is relative to.
        """
        members = (forecast if forecast.ndim == 4 else forecast[None]).double()
        truth = truth.double()
        self.members = len(members)
        valid = torch.isfinite(truth)
        whole = None if bool(valid.all()) else valid
        if whole is not None:
            truth = torch.where(valid, truth, 0.0)
            members = torch.where(valid, members, 0.0)
            climate = None if climate is None else torch.where(valid, climate, 0.0)
        rows = self.weights if self.weights is not None else truth.new_ones(truth.shape[-2], 1)
        for name, mask in self.regions.items():
            area = Area.of(rows, mask, truth.shape[-1])
            scores = self._scores(members, truth, climate, area, whole)
            for measure, value in scores.items():
                self._add(step, name, measure, value)
            if len(members) > 1:
                inside = valid if mask is None else valid & mask
                counts = rank_counts(members, truth, inside)
                known = self.ranks.get((step, name))
                self.ranks[step, name] = counts if known is None else known + counts
        if whole is None:
            self._add_spectra(step, members.mean(dim=0), truth)

    def _scores(
        self,
        members: Tensor,
        truth: Tensor,
        climate: Tensor | None,
        area: Area,
        valid: Tensor | None,
    ) -> dict[str, Tensor]:
        mean = members.mean(dim=0)
        error = mean - truth
        found = {
            "rmse": area.mean(error * error, valid),
            "bias": area.mean(error, valid),
            "mae": area.mean(error.abs(), valid),
        }
        size = area.mean(truth * truth, valid)
        found["relative_l2"] = (found["rmse"] / size).sqrt()
        if climate is not None:
            found["acc"] = anomaly_correlation(mean, truth, climate.double(), area, valid)
        if len(members) > 1:
            found["crps"] = area.mean(crps(members, truth), valid)
            found["spread"] = area.mean(members.var(dim=0, correction=1), valid)
        return found

    def _add(self, step: int, region: str, measure: str, value: Tensor) -> None:
        known = torch.isfinite(value)
        sums = self.sums.setdefault((step, region), {})
        counts = self.counts.setdefault((step, region), {})
        value = torch.where(known, value, 0.0)
        sums[measure] = sums[measure] + value if measure in sums else value
        counts[measure] = counts[measure] + known if measure in counts else known.double()

    def _add_spectra(self, step: int, forecast: Tensor, truth: Tensor) -> None:
        pair = [power_spectrum(forecast), power_spectrum(truth)]
        known = self.spectra.get(step)
        count = torch.ones(1)
        self.spectra[step] = (
            [*pair, count]
            if known is None
            else [a + b for a, b in zip(known, [*pair, count], strict=True)]
        )

    @property
    def steps(self) -> list[int]:
        """The steps added so far."""
        return sorted({step for step, _ in self.sums})

    @property
    def measures(self) -> list[str]:
        """The names of the scores that were computed."""
        computed = {name for sums in self.sums.values() for name in sums}
        return [name for name in MEASURES if name in computed]

    def mean(self, step: int, measure: str, region: str = "global") -> Tensor:
        """A score at a step over all starts, [C]; NaN where there was no truth."""
        if measure in ("spectrum", "true_spectrum"):
            forecast, truth, count = self.spectra[step]
            return (forecast if measure == "spectrum" else truth) / count
        key = (step, region)
        power, _ = MEASURES[measure]
        return (self.sums[key][measure] / self.counts[key][measure]) ** power

    def starts(self, step: int) -> int:
        """The number of forecasts added at a step."""
        return int(max(count["rmse"].max() for (at, _), count in self.counts.items() if at == step))

    def rows(self) -> Iterator[tuple[int, str, dict[str, Tensor]]]:
        """(step, region, {measure: [C]}) for all that was added."""
        for step, region in sorted(self.sums, key=lambda key: key[0]):
            found = {name: self.mean(step, name, region) for name in self.sums[step, region]}
            yield step, region, found


@METRICS.register_module()
class ForecastMetric:
    """RMSE and relative L2 of roll-outs for every step, averaged over channels, and ACC.

    The RMSE is in standard deviations. ACC needs `climate`: a .npy file of time means in physical
    units, [1, C, H, W] as FourCastNet publishes it (21 channels, 721 rows), of which the data's
    rows and channels are taken and z-scored as the data are; without it ACC is left out.
    latitude_weights: weight rows by area. by_channel: also give each channel's RMSE in its units.
    """

    def __init__(
        self,
        latitude_weights: bool = False,
        climate: str | Path | None = None,
        by_channel: bool = False,
    ) -> None:
        self.latitude_weights, self.by_channel = latitude_weights, by_channel
        self._path = climate
        self._means = None if climate is None else np.asarray(read_array(climate), np.float32)
        self._climate: Tensor | None = None
        self._dataset: Any = None
        self.reset()

    def use(self, dataset: Any) -> None:
        """Takes channels, coordinates and statistics from the data that is scored."""
        self._dataset = dataset if hasattr(dataset, "targets") else None
        self._climate = None

    def reset(self) -> None:
        """Discards all forecasts."""
        self.lead_times = LeadTimes()

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Tensor]) -> None:
        """Adds predictions [T, C, H, W] against batch["y"] [B, T, C, H, W]."""
        truths = batch["y"].cpu().float()
        if "mask" in batch:
            truths = torch.where(batch["mask"].cpu(), truths, torch.nan)
        H, W = truths.shape[-2:]
        if self.latitude_weights:
            known = batch.get("weights")
            self.lead_times.weights = Grid.globe(H, W).weights() if known is None else known.cpu()
        if self._means is not None and self._climate is None:
            self._climate = self._take_climate(truths.shape[2], H, W)
        for prediction, truth in zip(predictions, truths, strict=True):
            for number, state in enumerate(prediction.cpu().float()):
                self.lead_times.update(number + 1, state, truth[number], self._climate)

    def _take_climate(self, count: int, H: int, W: int) -> Tensor:
        """The climatology of the scored rows and channels, in the units of the batch, [C, H, W]."""
        assert self._means is not None
        data = self._dataset
        grid = getattr(data, "grid", None) or Grid.globe(H, W)
        names = list(getattr(data, "targets", ())) or [str(i) for i in range(count)]
        found = torch.from_numpy(published_climate(self._means, names, grid, str(self._path)))
        if data is None or not hasattr(data, "target_statistics"):
            return found
        mean, std = data.target_statistics()
        return (found - mean) / std

    def compute(self) -> dict[str, float]:
        """{"relative_l2": mean over steps, "rmse_step1": ..., "acc_step1": ..., ...}."""
        found: dict[str, float] = {}
        for step in self.lead_times.steps:
            for name in ("relative_l2", "rmse", "acc"):
                if name in self.lead_times.measures:
                    found[f"{name}_step{step}"] = self.lead_times.mean(step, name).mean().item()
            if self.by_channel and self._dataset is not None:
                _, std = self._dataset.target_statistics()
                rmse = self.lead_times.mean(step, "rmse") * std.flatten()
                for name, value in zip(self._dataset.targets, rmse.tolist(), strict=True):
                    found[f"rmse_{name}_step{step}"] = value
        errors = [value for name, value in found.items() if name.startswith("relative_l2")]
        return {"relative_l2": sum(errors) / len(errors), **found} if errors else {}
