"""Metrics of published configs that are not available: an error that says what to do."""

from typing import Any

from cupola.errors import BuildError
from cupola.registry import METRICS

REASONS = {
    "CityScapesMetric": "remove it from the evaluators; CocoMetric measures the boxes and masks of "
    "the same files",
}


def _unavailable(name: str, reason: str) -> Any:
    def build(**_: Any) -> Any:
        raise BuildError(f"{name} is not available: {reason}")

    return build


for each, why in REASONS.items():
    METRICS.register_module(each)(_unavailable(each, why))
