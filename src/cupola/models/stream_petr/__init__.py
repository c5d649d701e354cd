"""StreamPETR (arXiv 2303.11926) and its RepDETR3D: multi-camera detection in streams."""

from cupola.models.stream_petr.focal_head import FocalHead
from cupola.models.stream_petr.frame import Frame
from cupola.models.stream_petr.head import PETRHeadDN, StreamPETRHead
from cupola.models.stream_petr.memory import StreamState
from cupola.models.stream_petr.rep_detr3d import RepDetr3D, SparseHead
from cupola.models.stream_petr.stream_petr import StreamPETR
from cupola.models.stream_petr.temporal_head import TemporalHead
from cupola.models.stream_petr.yolox_head import YOLOXHeadCustom

__all__ = [
    "FocalHead",
    "Frame",
    "PETRHeadDN",
    "RepDetr3D",
    "SparseHead",
    "StreamPETR",
    "StreamPETRHead",
    "StreamState",
    "TemporalHead",
    "YOLOXHeadCustom",
]
