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

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        from cupola.runtime.predictors.forecast_program import program

        return program(predictor, size)


register(Forecast())
