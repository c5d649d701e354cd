"""SOLO (arXiv 1912.04488) and SOLOv2 (2003.10152): a cell of a grid is an object and its mask."""

from cupola.models.solo.decoupled import DecoupledSOLOHead, DecoupledSOLOLightHead
from cupola.models.solo.head import SOLO, SOLOHead
from cupola.models.solo.matrix_nms import matrix_nms
from cupola.models.solo.solov2 import SOLOv2, SOLOV2Head

__all__ = [
    "SOLO",
    "DecoupledSOLOHead",
    "DecoupledSOLOLightHead",
    "SOLOHead",
    "SOLOV2Head",
    "SOLOv2",
    "matrix_nms",
]
