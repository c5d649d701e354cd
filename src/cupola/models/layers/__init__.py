"""Layers shared by several models."""

from cupola.models.layers.adaptive_padding import Conv2dAdaptivePadding
from cupola.models.layers.attention import MultiheadAttention
from cupola.models.layers.building import build_activation, build_conv, build_norm
from cupola.models.layers.carafe import CARAFEPack
from cupola.models.layers.conditional_attention import ConditionalAttention
from cupola.models.layers.context_block import ContextBlock
from cupola.models.layers.conv_module import ConvModule, DepthwiseSeparableConvModule
from cupola.models.layers.conv_ws import ConvAWS2d, ConvWS2d
from cupola.models.layers.deform_conv import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
from cupola.models.layers.deformable_attention import MultiScaleDeformableAttention
from cupola.models.layers.deformable_transformer import (
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
)
from cupola.models.layers.drop_block import DropBlock
from cupola.models.layers.feature_levels import (
    FeatureLevels,
    feature_mask,
    flatten_levels,
    map_positions,
)
from cupola.models.layers.feed_forward import FFN
from cupola.models.layers.generalized_attention import GeneralizedAttention
from cupola.models.layers.mlp import MLP
from cupola.models.layers.non_local import NonLocal2d
from cupola.models.layers.normed import NormedConv2d, NormedLinear
from cupola.models.layers.position_encoding import (
    LearnedPositionalEncoding,
    SinePositionalEncoding,
    sine_waves,
)
from cupola.models.layers.references import encode_references, inverse_sigmoid, refine_boxes
from cupola.models.layers.saconv import SAConv2d
from cupola.models.layers.sync_norm import MMSyncBN
from cupola.models.layers.transformer_layer import TransformerLayer, TransformerLayerSequence

__all__ = [
    "FFN",
    "MLP",
    "CARAFEPack",
    "ConditionalAttention",
    "ContextBlock",
    "Conv2dAdaptivePadding",
    "ConvAWS2d",
    "ConvModule",
    "ConvWS2d",
    "DeformConv2d",
    "DeformConv2dPack",
    "DeformableDetrTransformerDecoder",
    "DeformableDetrTransformerEncoder",
    "DepthwiseSeparableConvModule",
    "DropBlock",
    "FeatureLevels",
    "GeneralizedAttention",
    "LearnedPositionalEncoding",
    "MMSyncBN",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "MultiScaleDeformableAttention",
    "MultiheadAttention",
    "NonLocal2d",
    "NormedConv2d",
    "NormedLinear",
    "SAConv2d",
    "SinePositionalEncoding",
    "TransformerLayer",
    "TransformerLayerSequence",
    "build_activation",
    "build_conv",
    "build_norm",
    "encode_references",
    "feature_mask",
    "flatten_levels",
    "inverse_sigmoid",
    "map_positions",
    "refine_boxes",
    "sine_waves",
]
