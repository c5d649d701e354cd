"""Verifies a model before it is taken into service."""

from pathlib import Path

from cupola.errors import BundleError
from cupola.runtime.predictor import Predictor
from cupola.runtime.recorded_example import differing
from cupola.serve.settings.models import ModelPlan


def verify(predictor: Predictor, plan: ModelPlan) -> None:
    """Runs the recorded request of the bundle, if any; BundleError if the answer differs."""
    outputs = differing(predictor, Path(plan.path))
    if outputs:
        raise BundleError(
            f"{plan.name}:{plan.version}: output {outputs[0]!r} differs from the answer recorded "
            "in the bundle"
        )
