"""StreamPETR (arXiv 2303.11926): multi-camera detection in streams."""

from cupola.models.stream_petr.focal_head import FocalHead
from cupola.models.stream_petr.head import Frame, StreamPETRHead, TemporalHead
from cupola.models.stream_petr.memory import StreamState
from cupola.models.stream_petr.stream_petr import StreamPETR

__all__ = ["FocalHead", "Frame", "StreamPETR", "StreamPETRHead", "StreamState", "TemporalHead"]
