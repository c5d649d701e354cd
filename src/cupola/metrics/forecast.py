"""Forecast errors by lead time: RMSE, ACC, relative L2, spectra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.files.scientific import read_array
from cupola.registry import METRICS
from cupola.structures.grids import (
    Grid,
    anomaly_correlation,
    power_spectrum,
    relative_l2,
    rmse,
)


@dataclass
class LeadTimes:
    """Means by step and channel over forecasts that are added one step at a time.

    weights: row weights [H, 1] or None. climate: the time mean [C, H, W] that ACC is relative to.
    """

    weights: Tensor | None = None
    climate: Tensor | None = None
    sums: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def update(self, step: int, prediction: Tensor, truth: Tensor) -> None:
        """Adds one state, [C, H, W] against [C, H, W], at `step` (1 is the first forecast)."""
        climate = torch.zeros_like(truth) if self.climate is None else self.climate
        values = {
            "rmse": rmse(prediction, truth, self.weights),
            "acc": anomaly_correlation(prediction, truth, climate, self.weights),
            "relative_l2": relative_l2(prediction, truth, self.weights),
            "spectrum": power_spectrum(prediction),
            "true_spectrum": power_spectrum(truth),
        }
        known = self.sums.setdefault(step, {})
        for name, value in values.items():
            known[name] = known[name] + value if name in known else value
        self.counts[step] = self.counts.get(step, 0) + 1

    def mean(self, step: int, name: str) -> Tensor:
        """The mean of "rmse", "acc" or "relative_l2" at a step, [C]; of a spectrum, [C, K]."""
        return self.sums[step][name] / self.counts[step]

    @property
    def steps(self) -> list[int]:
        """The steps added so far."""
        return sorted(self.counts)


@METRICS.register_module()
class ForecastMetric:
    """RMSE, ACC and relative L2 of roll-outs, averaged over channels, for every step.

    climate: a .npy file with the time means [1, C, H, W] in the units of the batch; None means 0,
    for z-scored fields without a map of means. latitude_weights: weight rows by the cosine of
    latitude (regular global grid).
    """

    def __init__(self, latitude_weights: bool = False, climate: str | Path | None = None) -> None:
        self.latitude_weights = latitude_weights
        means = None if climate is None else np.asarray(read_array(climate), np.float32)
        self.climate = None if means is None else torch.from_numpy(means)[0]
        self.reset()

    def reset(self) -> None:
        """Discards all forecasts."""
        self.lead_times = LeadTimes(climate=self.climate)

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Tensor]) -> None:
        """Adds predictions [T, C, H, W] against batch["y"] [B, T, C, H, W]."""
        for prediction, truth in zip(predictions, batch["y"].cpu().float(), strict=True):
            if self.latitude_weights:
                self.lead_times.weights = Grid.globe(*truth.shape[-2:]).weights()
            for number, state in enumerate(prediction.cpu().float()):
                self.lead_times.update(number + 1, state, truth[number])

    def compute(self) -> dict[str, float]:
        """{"relative_l2": mean over steps, "rmse_step1": ..., "acc_step1": ..., ...}."""
        found: dict[str, float] = {}
        for step in self.lead_times.steps:
            for name in ("relative_l2", "rmse", "acc"):
                found[f"{name}_step{step}"] = self.lead_times.mean(step, name).mean().item()
        errors = [value for name, value in found.items() if name.startswith("relative_l2")]
        return {"relative_l2": sum(errors) / len(errors), **found} if errors else {}
