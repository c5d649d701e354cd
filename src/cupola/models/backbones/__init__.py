"""Backbones: a picture -> feature maps."""

from cupola.models.backbones.resnet import ResNet
from cupola.models.backbones.small_resnet import SmallResNet

__all__ = ["ResNet", "SmallResNet"]
