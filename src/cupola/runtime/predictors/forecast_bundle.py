"""A forecast bundle -> its predictor."""

from collections.abc import Mapping
from typing import Any

import torch

from cupola.bundles import Bundle
from cupola.runtime.predictors.forecast import ForecastPredictor
from cupola.structures.grids import Grid


def from_bundle(bundle: Bundle, model: Any) -> ForecastPredictor:
    """The predictor of a forecast bundle, from the `preprocess` part of its config."""
    about = bundle.config["preprocess"]
    channels = tuple(about["channels"])
    diagnostics = about.get("diagnostics", [])
    return ForecastPredictor(
        bundle.name,
        bundle.version,
        model,
        bundle.config,
        channels=channels,
        units=tuple(about.get("units", ())),
        mean=torch.tensor(about["mean"], dtype=torch.float32)[:, None, None],
        std=torch.tensor(about["std"], dtype=torch.float32)[:, None, None],
        grid=Grid.read(about.get("grid")),
        interval=float(about.get("interval", 6.0)),
        interval_unit=str(about.get("interval_unit", "hours")),
        folder=bundle.path,
        predicted=predicted_count(about, bundle.config.get("model", {})),
        diagnostics=tuple(each["channel"] for each in diagnostics),
        diagnostic_units=tuple(each["units"] for each in diagnostics),
        calendar=about.get("calendar"),
        nan=about.get("nan", "refuse"),
    )


def predicted_count(about: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    """How many of a bundle's channels are predicted: as it states, else as the model's size is."""
    count = len(about["channels"])
    if "forcings" in about:
        return count - len(about["forcings"])
    predicted = model.get("out_chans", model.get("out_channels", count))
    return count if about.get("diagnostics") else min(count, predicted)
