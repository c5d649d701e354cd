"""Images of forecasts: fields in color, an animation, curves over lead time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# Blue through white to red, of equal lightness on both sides (ends of ColorBrewer's RdBu).
STOPS = np.array([[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]])

LEAST_SIDE = 256  # smaller fields are enlarged by a whole number


def color(field: Field, limit: float, middle: float = 0.0) -> Pixels:
    """[H, W] -> RGB [H, W, 3]; middle - limit is blue, middle + limit red."""
    position = np.clip((field - middle) / max(limit, 1e-30), -1, 1) * 2 + 2  # 0..4
    channels = [np.interp(position, np.arange(5), STOPS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_fields(fields: Sequence[Field], limit: float, middle: float = 0.0) -> Image.Image:
    """Draws fields [H, W] side by side."""
    gap = np.full((fields[0].shape[0], 2, 3), 255, np.uint8)
    parts = [part for field in fields for part in (color(field, limit, middle), gap)]
    image = Image.fromarray(np.concatenate(parts[:-1], axis=1))
    factor = max(1, LEAST_SIDE // fields[0].shape[0])
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


class Animation:
    """Collects frames, as palette images, and writes a GIF."""

    def __init__(self, path: Path, limit: float, middle: float = 0.0) -> None:
        self.path, self.limit, self.middle = path, limit, middle
        self._frames: list[Image.Image] = []

    @staticmethod
    def of(predictor: Any, path: Path, place: int) -> "Animation":
        """An animation of the channel number `place` of a forecast model."""
        at = place if place < len(predictor.mean) else 0
        mean, std = (float(part.flatten()[at]) for part in (predictor.mean, predictor.std))
        return Animation(path, 2.5 * std, mean)

    def add(self, fields: Sequence[Field], number: int = 0) -> None:
        """Adds a frame: fields [H, W] side by side (a forecast, and the truth)."""
        self._frames.append(draw_fields(fields, self.limit, self.middle).quantize(64))

    def save(self, milliseconds: int = 120) -> None:
        """Writes the GIF; it loops forever."""
        first, *rest = self._frames
        first.save(self.path, save_all=True, append_images=rest, duration=milliseconds, loop=0)


def plot_lead_times(
    path: Path,
    leads: Sequence[float],
    unit: str,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    units: Mapping[str, str] | None = None,
) -> None:
    """One panel for each measure, one line for each channel: {"RMSE": {"t2m": [...]}}.

    units: by channel. Where they differ, a panel's lines are drawn relative to their first value.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    kinds = {unit for unit in (units or {}).values() if unit}
    for panel, (measure, lines) in zip(panels, curves.items(), strict=True):
        relative = len(kinds) > 1 and measure != "ACC"
        for channel, values in lines.items():
            first = values[0] if relative and values[0] else 1.0
            panel.plot(leads, [value / first for value in values], label=channel)
        scale = " / its first value" if relative else f" ({min(kinds)})" if kinds else ""
        panel.set(xlabel=f"lead time ({unit})", title=measure + ("" if measure == "ACC" else scale))
    panels[0].legend(fontsize="small")
    figure.savefig(path)


def plot_spectra(path: Path, spectra: Mapping[str, Sequence[float]]) -> None:
    """Power against wave number, both logarithmic, one line for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    panel = figure.subplots()
    for name, power in spectra.items():
        panel.loglog(range(1, len(power)), power[1:], label=name)
    panel.set(xlabel="wave number", ylabel="power")
    panel.legend(fontsize="small")
    figure.savefig(path)
