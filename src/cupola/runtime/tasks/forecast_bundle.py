"""What a forecast bundle says about its model: channels, units, statistics, grid, time step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cupola.errors import ConfigError
from cupola.files.scientific import read_array
from cupola.structures.grids import Grid
from cupola.structures.statistics import channel_statistics
from cupola.structures.variables import channel_units

ANY_GRID = ("FNO", "NeuralOperatorFNO")
PRECIPITATION = {"channel": "tp", "units": "m"}


def preprocess_of(
    cfg: Mapping[str, Any], model: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The `preprocess` part of a bundle's config, from a training config; ConfigError names gaps.

    The config's `channels`, `units`, `grid`, `interval`, `calendar` and `nan` are taken where they
    are stated, else FourCastNet's. Channels after the model's outputs are forcings.
    """
    from cupola.runtime.training_config import first_value

    channels = list(cfg.get("channels") or [])
    if not channels:
        raise ConfigError("the config does not name its `channels`")
    fields = cfg.get("fields") or first_value(cfg, [("val_dataloader", "dataset")]) or {}
    statistics = {
        key: statistic(options.get(name) or fields.get(name), name, channels)
        for key, name in (("mean", "means"), ("std", "stds"))
    }
    found: dict[str, Any] = {"channels": channels}
    forcings, diagnostics = roles(cfg, model, channels)
    if forcings:
        found["forcings"] = forcings
    if diagnostics:
        found["diagnostics"] = diagnostics
    stated = list(cfg.get("units") or [])
    if stated and len(stated) != len(channels):
        raise ConfigError(f"`units` has {len(stated)} entries for {len(channels)} channels")
    found |= {
        "units": stated or [channel_units(name) for name in channels],
        **statistics,
        "grid": grid_of(cfg, model, options),
        "interval": cfg.get("interval", 6.0),
        "interval_unit": cfg.get("interval_unit", "hours"),
    }
    return found | {key: cfg[key] for key in ("calendar", "nan") if cfg.get(key)}


def roles(
    cfg: Mapping[str, Any], model: Mapping[str, Any], channels: Sequence[str]
) -> tuple[list[str], list[dict[str, str]]]:
    """The forcings among the channels, and what the model derives from a state."""
    inner = model.get("backbone", {}) if model["type"] == "PrecipNet" else model
    inputs = inner.get("in_chans", inner.get("in_channels", len(channels)))
    outputs = inner.get("out_chans", inner.get("out_channels", inputs))
    if inputs != len(channels):
        raise ConfigError(
            f"the model takes {inputs} channels, and `channels` names {len(channels)}:"
            f" {', '.join(channels)}"
        )
    if model["type"] != "PrecipNet":
        return list(channels[outputs:]), []
    diagnostics = [dict(each) for each in cfg.get("diagnostics") or [PRECIPITATION]]
    if len(diagnostics) != outputs:
        raise ConfigError(
            f"the model derives {outputs} channels, and `diagnostics` names {len(diagnostics)};"
            " write it as [{'channel': 'tp', 'units': 'm'}]"
        )
    return [], diagnostics


def grid_of(
    cfg: Mapping[str, Any], model: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The coordinates: stated ones, else those of a published grid of the model's size.

    None for a model that takes any grid.
    """
    stated = options.get("grid") or cfg.get("grid")
    size = model_size(model)
    if stated is None:
        return None if size is None else Grid.globe(*size).to_config()
    grid = Grid.read(stated)
    assert grid is not None
    if size is not None and grid.shape != size:
        raise ConfigError(f"the grid has {grid}; the model is built for {size[0]} x {size[1]}")
    return grid.to_config()


def model_size(model: Mapping[str, Any]) -> tuple[int, int] | None:
    """(rows, columns) that a model is built for; None if it takes any grid."""
    inner = model.get("backbone", {}) if model["type"] == "PrecipNet" else model
    size = inner.get("img_size")
    if size is None:
        return None if model["type"] in ANY_GRID else (720, 1440)
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return int(rows), int(columns)


def statistic(value: Any, what: str, channels: Sequence[str]) -> list[float]:
    """One number for each channel, from numbers, {channel: number}, or a .npy file.

    See `channel_statistics` for which number belongs to which channel.
    """
    if value is None:
        raise ConfigError(f"no file with the channels' {what}; name one with --{what}")
    if not isinstance(value, str | Path):
        return channel_statistics(value, channels, what)
    if not Path(value).is_file():
        raise ConfigError(f"{value}: no file with the channels' {what}; name one with --{what}")
    try:
        return channel_statistics(read_array(value, ConfigError), channels, what)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if str(value) in text else f"{value}: {text}") from None
