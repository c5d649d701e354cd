"""Metrics; importing the room registers them."""

from cupola.metrics.coco import CocoMetric
from cupola.metrics.forecast import ForecastMetric

__all__ = ["CocoMetric", "ForecastMetric"]
