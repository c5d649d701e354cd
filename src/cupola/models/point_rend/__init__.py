"""PointRend (arXiv 1912.08193): masks that are refined where they are uncertain."""

from cupola.models.point_rend.heads import CoarseMaskHead, MaskPointHead
from cupola.models.point_rend.points import SimpleRoIAlign
from cupola.models.point_rend.roi_head import PointRend, PointRendRoIHead

__all__ = ["CoarseMaskHead", "MaskPointHead", "PointRend", "PointRendRoIHead", "SimpleRoIAlign"]
