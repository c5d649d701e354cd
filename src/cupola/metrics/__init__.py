"""Metrics; importing the package registers them."""

from cupola.metrics.coco import CocoMetric
from cupola.metrics.forecast import ForecastMetric
from cupola.metrics.nuscenes import NuScenesMetric
from cupola.metrics.panoptic import PanopticQuality
from cupola.metrics.perplexity import NGram, Perplexity

__all__ = [
    "CocoMetric",
    "ForecastMetric",
    "NGram",
    "NuScenesMetric",
    "PanopticQuality",
    "Perplexity",
]
