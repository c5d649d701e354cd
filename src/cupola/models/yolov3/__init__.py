"""YOLOv3 (arXiv 1804.02767): three anchors a cell on three levels, coarsest first."""

from cupola.models.yolov3.boxes import GridAssigner, YOLOAnchorGenerator, YOLOBBoxCoder
from cupola.models.yolov3.head import YOLOV3, YOLOV3Head

__all__ = ["YOLOV3", "GridAssigner", "YOLOAnchorGenerator", "YOLOBBoxCoder", "YOLOV3Head"]
