"""Forecasts of fields: a state -> the states that follow it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.errors import ConfigError, InputError
from cupola.runtime.tasks.task import BUILDING, Task, register

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.export import Program
    from cupola.runtime.predictor import Predictor


class Forecast(Task):
    """Operators that step fields forward in time."""

    name = "forecast"
    models = ("AFNONet", "FNO", "PrecipNet")
    modules = (*BUILDING, "cupola.runtime.predictors.forecast_stream")
    page = "forecast"
    page_rank = 3

    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        from cupola.runtime.predictors.forecast import from_bundle

        return from_bundle(bundle, model)

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Channels with their statistics, and the grid.

        The options `means` and `stds` name .npy files, for where the config's are not there.
        """
        from cupola.runtime.training_config import first_value

        channels = list(cfg.get("channels") or [])
        if not channels:
            raise ConfigError("the config does not name its `channels`")
        fields = cfg.get("fields") or first_value(cfg, [("val_dataloader", "dataset")]) or {}
        statistics = {
            key: channel_statistics(options.get(name) or fields.get(name), name, len(channels))
            for key, name in (("mean", "means"), ("std", "stds"))
        }
        preprocess = {
            "channels": channels,
            **statistics,
            "grid": {"kind": "globe", "size": list(model["img_size"])},
            "interval": cfg.get("interval", 6.0),
            "interval_unit": cfg.get("interval_unit", "hours"),
        }
        return {"preprocess": preprocess}

    def read(self, source: Path) -> Any:
        raise InputError("`cupola predict` is not for forecast models; use `cupola forecast`")

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        from cupola.runtime.predictors.forecast import program

        return program(predictor, size)


def channel_statistics(path: str | Path | None, what: str, count: int) -> list[float]:
    """One number for each channel, from a .npy file of any shape, as FourCastNet publishes it."""
    from cupola.files.scientific import read_array

    if path is None or not Path(path).is_file():
        raise ConfigError(f"{path}: no file with the channels' {what}; name one with --{what}")
    values = read_array(path, ConfigError).reshape(-1)
    if len(values) < count:
        raise ConfigError(f"{path}: {len(values)} {what} for {count} channels")
    return [float(value) for value in values[:count]]


register(Forecast())
