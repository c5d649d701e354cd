"""Metrics of published configs that are not available: an error that says what to do."""

from typing import Any

from cupola.errors import BuildError
from cupola.registry import METRICS

TRACKING = "tracking and re-identification are not included"
REASONS = {
    "LVISFixedAPMetric": "use LVISMetric, which limits the detections of an image, not of a class",
    "OVCocoMetric": "use CocoMetric, which does not tell base classes from novel ones",
    "SemSegMetric": "semantic segmentation is measured as a part of CocoPanopticMetric alone",
    **dict.fromkeys(
        ("MOTChallengeMetric", "YouTubeVISMetric", "ReIDMetrics", "CocoVideoMetric"), TRACKING
    ),
}


def _unavailable(name: str, reason: str) -> Any:
    def build(**_: Any) -> Any:
        raise BuildError(f"{name} is not available: {reason}")

    return build


for each, why in REASONS.items():
    METRICS.register_module(each)(_unavailable(each, why))
