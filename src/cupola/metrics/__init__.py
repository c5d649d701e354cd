"""Metrics; importing the package registers them."""

from cupola.metrics.cityscapes import CityScapesMetric
from cupola.metrics.coco import CocoMetric
from cupola.metrics.crowdhuman import CrowdHumanMetric
from cupola.metrics.forecast import ForecastMetric
from cupola.metrics.lvis import LVISMetric
from cupola.metrics.nuscenes import NuScenesMetric
from cupola.metrics.openimages import OpenImagesMetric
from cupola.metrics.panoptic import PanopticQuality
from cupola.metrics.perplexity import NGram, Perplexity
from cupola.metrics.unavailable import REASONS
from cupola.metrics.voc import VOCMetric

__all__ = [
    "REASONS",
    "CityScapesMetric",
    "CocoMetric",
    "CrowdHumanMetric",
    "ForecastMetric",
    "LVISMetric",
    "NGram",
    "NuScenesMetric",
    "OpenImagesMetric",
    "PanopticQuality",
    "Perplexity",
    "VOCMetric",
]
