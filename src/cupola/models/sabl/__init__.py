"""SABL (arXiv 1912.04260): each side of a box is found by itself, first roughly, then exactly."""

from cupola.models.sabl.box_head import SABLHead
from cupola.models.sabl.coder import BucketingBBoxCoder, Buckets
from cupola.models.sabl.retina_head import SABLRetinaHead

__all__ = ["BucketingBBoxCoder", "Buckets", "SABLHead", "SABLRetinaHead"]
