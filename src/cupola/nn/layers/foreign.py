"""Layers that are torch's own: a torch module may be a child of ours without a bridge."""

from torch.nn import (
    GRU,
    LSTM,
    RNN,
    AdaptiveLogSoftmaxWithLoss,
    CrossMapLRN2d,
    FractionalMaxPool2d,
    FractionalMaxPool3d,
    GRUCell,
    LSTMCell,
    RNNCell,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveLogSoftmaxWithLoss",
    "CrossMapLRN2d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
