"""Grid R-CNN (arXiv 1811.12030): boxes from a grid of points."""

from cupola.models.grid_rcnn.head import GridHead
from cupola.models.grid_rcnn.points import GridPoints
from cupola.models.grid_rcnn.roi_head import GridRCNN, GridRoIHead

__all__ = ["GridHead", "GridPoints", "GridRCNN", "GridRoIHead"]
