"""FCOS: the detector of the head of cells."""

from cupola.models.dense import SingleStageDetector
from cupola.registry import MODELS


@MODELS.register_module()
class FCOS(SingleStageDetector):
    """Fully convolutional one-stage detection. Source: mmdet/models/detectors/fcos.py."""
