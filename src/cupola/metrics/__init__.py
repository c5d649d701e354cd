"""Metrics; importing the room registers them."""

from cupola.metrics.coco import CocoMetric

__all__ = ["CocoMetric"]
