"""DETR3D (arXiv 2110.06922): 3-D detection from several calibrated cameras."""

from cupola.models.detr3d.box_head import BoxHead3D, DETR3DOutput
from cupola.models.detr3d.coder import NMSFreeCoder
from cupola.models.detr3d.cross_attention import Detr3DCrossAtten
from cupola.models.detr3d.decoder import Detr3DTransformer, Detr3DTransformerDecoder
from cupola.models.detr3d.detr3d import DETR3D
from cupola.models.detr3d.grid_mask import GridMask
from cupola.models.detr3d.head import DETR3DHead
from cupola.models.detr3d.matching import BBox3DL1Cost, HungarianAssigner3D
from cupola.models.detr3d.preprocess import Det3DDataPreprocessor

__all__ = [
    "DETR3D",
    "BBox3DL1Cost",
    "BoxHead3D",
    "DETR3DHead",
    "DETR3DOutput",
    "Det3DDataPreprocessor",
    "Detr3DCrossAtten",
    "Detr3DTransformer",
    "Detr3DTransformerDecoder",
    "GridMask",
    "HungarianAssigner3D",
    "NMSFreeCoder",
]
