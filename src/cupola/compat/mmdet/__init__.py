"""`mmdet.apis` of MMDetection 3.x: init_detector, inference_detector, DetInferencer.

docs/migrate.md lists what differs.
"""

from cupola.compat.mmdet.detector import Detector, inference_detector, init_detector
from cupola.compat.mmdet.inferencer import DetInferencer
from cupola.compat.mmdet.results import DetDataSample, InstanceData

__all__ = [
    "DetDataSample",
    "DetInferencer",
    "Detector",
    "InstanceData",
    "inference_detector",
    "init_detector",
]
