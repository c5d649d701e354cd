"""What one step of a forecast model did: spectra of its filters, and the error of the step."""

import base64
from typing import Any

import torch
from torch import Tensor

from cupola.models.afno.inspection import inspect_afno
from cupola.runtime.predictors.forecast import ForecastPredictor

CHANNELS = 6  # that are shown
SIDE = 256  # cells of a map; larger ones are thinned out
FLOOR = 1e-8  # amplitudes below count as this


def view_of_field(predictor: ForecastPredictor) -> dict[str, Any]:
    """The first step from the bundle's example: start, forecast, truth and error of each channel.

    With the amplitudes of the spectrum before each AFNO filter and of what it adds, and the modes
    that it keeps. InputError for a bundle without examples.
    """
    (sample,) = predictor.decode({}, {"example": 0, "steps": 1})
    state = sample.state[:1]
    following = predictor.physical(predictor.advance(state))[0]
    start = predictor.physical(state)[0]
    truths = sample.truth
    channels = []
    for index, name in enumerate(predictor.channels[: min(CHANNELS, len(following))]):
        maps = {"start": start[index], "forecast": following[index]}
        if truths is not None and len(truths) and index < truths.shape[1]:
            maps |= {"truth": truths[0, index], "error": following[index] - truths[0, index]}
        low, high = _range([each for key, each in maps.items() if key != "error"])
        most = float(maps["error"].abs().nan_to_num().max()) if "error" in maps else 0.0
        ranges = {key: (-most, most) if key == "error" else (low, high) for key in maps}
        packed = {key: pack_map(each, *ranges[key]) for key, each in maps.items()}
        channels.append({"name": name, "maps": packed})
    return {"kind": "field", "channels": channels, "filters": _filters(predictor, state)}


def _filters(predictor: ForecastPredictor, state: Tensor) -> list[dict[str, Any]]:
    """Per filter its two spectra, on one logarithmic scale, zero frequency in the first row."""
    seen = inspect_afno(predictor.model, state)
    found = []
    for layer, (rows, columns) in enumerate(seen["kept"]):
        spectra = [seen[key][layer].cpu().clamp_min(FLOOR).log10() for key in ("before", "after")]
        low, high = _range(spectra)
        low = max(low, high - 4)  # four decades
        before, after = (pack_map(each, low, high) for each in spectra)
        found.append({"before": before, "after": after, "rows": rows, "columns": columns})
    return found


def pack_map(values: Tensor, low: float, high: float) -> dict[str, Any]:
    """A map [H, W] in bytes from `low` to `high`, missing values as the middle."""
    step = max(1, -(-max(values.shape) // SIDE))
    shown = values[::step, ::step].float().nan_to_num(nan=(low + high) / 2)
    scaled = ((shown - low) / max(high - low, 1e-12) * 255).clamp(0, 255).round().to(torch.uint8)
    data = base64.b64encode(scaled.contiguous().numpy().tobytes()).decode()
    shape = list(scaled.shape)
    return {"shape": shape, "bytes": data, "low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")}


def _range(maps: list[Tensor]) -> tuple[float, float]:
    known = torch.cat([each[each.isfinite()].flatten() for each in maps])
    return (float(known.min()), float(known.max())) if known.numel() else (0.0, 1.0)
