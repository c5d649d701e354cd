"""A version is taken into service only after it answered its recorded inputs."""

from pathlib import Path

from cupola.errors import BundleError
from cupola.runtime.predictor import Predictor
from cupola.runtime.recorded_example import differing
from cupola.serve.settings.models import ModelPlan


def verify(predictor: Predictor, plan: ModelPlan) -> None:
    """Asks the recorded request again, if there is one; BundleError if the answer differs."""
    wrong = differing(predictor, Path(plan.path))
    if wrong:
        raise BundleError(
            f"{plan.name}:{plan.version}: output {wrong[0]!r} differs from the answer recorded in "
            "the bundle"
        )
