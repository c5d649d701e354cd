"""The R-CNN line: proposals, then heads for the regions.

Fast, Faster, Mask and Cascade R-CNN. `detector.py` has the two stages, `standard.py` and
`cascade.py` the heads of regions, which are made of the parts in the other files.
"""

from cupola.models.rcnn.box_head import (
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from cupola.models.rcnn.cascade import CascadeRoIHead
from cupola.models.rcnn.detector import (
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    MaskRCNN,
    TwoStageDetector,
)
from cupola.models.rcnn.double_head import DoubleConvFCBBoxHead, DoubleHeadRoIHead
from cupola.models.rcnn.dynamic import DynamicRoIHead
from cupola.models.rcnn.hard_mining import OHEMSampler
from cupola.models.rcnn.mask_head import FCNMaskHead
from cupola.models.rcnn.roi_extractor import GenericRoIExtractor, RoIAlign, SingleRoIExtractor
from cupola.models.rcnn.shared_head import ResLayer
from cupola.models.rcnn.standard import StandardRoIHead

__all__ = [
    "BBoxHead",
    "CascadeRCNN",
    "CascadeRoIHead",
    "ConvFCBBoxHead",
    "DoubleConvFCBBoxHead",
    "DoubleHeadRoIHead",
    "DynamicRoIHead",
    "FCNMaskHead",
    "FastRCNN",
    "FasterRCNN",
    "GenericRoIExtractor",
    "MaskRCNN",
    "OHEMSampler",
    "ResLayer",
    "RoIAlign",
    "Shared2FCBBoxHead",
    "Shared4Conv1FCBBoxHead",
    "SingleRoIExtractor",
    "StandardRoIHead",
    "TwoStageDetector",
]
