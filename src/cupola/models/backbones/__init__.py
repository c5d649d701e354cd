"""Backbones: images -> feature maps."""

from cupola.models.backbones.resnet import ResNet
from cupola.models.backbones.small_resnet import SmallResNet
from cupola.models.backbones.swin import SwinTransformer
from cupola.models.backbones.vovnet import VoVNet

__all__ = [
    "ResNet",
    "SmallResNet",
    "SwinTransformer",
    "VoVNet",
]
