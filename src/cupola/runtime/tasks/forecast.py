"""Forecasts of fields: a state -> the states that follow it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.errors import InputError
from cupola.runtime.tasks.task import BUILDING, Task, register

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.export import Program
    from cupola.runtime.predictor import Predictor


class Forecast(Task):
    """Operators that step fields forward in time."""

    name = "forecast"
    models = ("AFNONet", "FNO", "NeuralOperatorFNO", "PrecipNet")
    modules = (*BUILDING, "cupola.runtime.predictors.forecast_stream")
    page = "forecast"
    page_rank = 3

    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        from cupola.runtime.predictors.forecast_bundle import from_bundle

        return from_bundle(bundle, model)

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Channels with their units and statistics, the grid, the time step.

        Options: `means` and `stds` name .npy files, for where the config's are not there; `grid` is
        a grid as `Grid.read` takes it, for where the config has no coordinates.
        """
        from cupola.runtime.tasks.forecast_bundle import preprocess_of

        return {"preprocess": preprocess_of(cfg, model, options)}

    def read(self, source: Path) -> Any:
        raise InputError("`cupola predict` is not for forecast models; use `cupola forecast`")

    def calibration_samples(self, predictor: Any, bundle: "Bundle") -> list[Any]:
        """The start of the bundle's example, or noise, and its mirror image; one step each."""
        from dataclasses import replace

        import torch

        from cupola.runtime.predictors.forecast_stream import ForecastSample

        if predictor.has_example:
            sample = replace(predictor.decode({}, {"example": 0, "steps": 1})[0], steps=1)
        else:
            size = predictor.model.example_shape[-2:]
            size = predictor.grid.shape if predictor.grid is not None else size
            shape = (1, len(predictor.channels), *size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            sample = ForecastSample(noise.to(predictor.device), 1)
        return [sample, replace(sample, state=sample.state.flip(-1))]

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        from cupola.runtime.predictors.forecast_program import program

        return program(predictor, size)


register(Forecast())
