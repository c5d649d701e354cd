"""VarifocalNet (arXiv 2008.13367): scores aware of the IoU, boxes refined at nine points."""

from cupola.models.vfnet.head import VFNet, VFNetHead

__all__ = ["VFNet", "VFNetHead"]
