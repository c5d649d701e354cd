"""BEVFormer (arXiv 2203.17270): multi-camera detection over a bird's-eye view with a memory."""

from cupola.models.bevformer.bevformer import BEVFormer
from cupola.models.bevformer.decoder import DetectionTransformerDecoder
from cupola.models.bevformer.encoder import BEVFormerEncoder, BEVFormerLayer
from cupola.models.bevformer.head import BEVFormerHead
from cupola.models.bevformer.motion import BEVState, Motion
from cupola.models.bevformer.spatial_attention import MSDeformableAttention3D, SpatialCrossAttention
from cupola.models.bevformer.temporal_attention import TemporalSelfAttention
from cupola.models.bevformer.transformer import PerceptionTransformer

__all__ = [
    "BEVFormer",
    "BEVFormerEncoder",
    "BEVFormerHead",
    "BEVFormerLayer",
    "BEVState",
    "DetectionTransformerDecoder",
    "MSDeformableAttention3D",
    "Motion",
    "PerceptionTransformer",
    "SpatialCrossAttention",
    "TemporalSelfAttention",
]
