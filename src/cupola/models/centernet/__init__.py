"""CenterNet (arXiv 1904.07850): objects are points; and its update (2103.07461)."""

from cupola.models.centernet.head import CenterNet, CenterNetHead
from cupola.models.centernet.heatmaps import gaussian_radius
from cupola.models.centernet.update import CenterNetUpdateHead

__all__ = ["CenterNet", "CenterNetHead", "CenterNetUpdateHead", "gaussian_radius"]
