"""Backbones: images -> feature maps."""

from cupola.models.backbones.convnext import ConvNeXt
from cupola.models.backbones.csp_darknet import CSPDarknet, CSPNeXt
from cupola.models.backbones.darknet import Darknet
from cupola.models.backbones.detectors_resnet import DetectoRSResNet
from cupola.models.backbones.efficientnet import EfficientNet
from cupola.models.backbones.hourglass import HourglassNet
from cupola.models.backbones.hrnet import HRNet
from cupola.models.backbones.mobilenet_v2 import MobileNetV2
from cupola.models.backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
from cupola.models.backbones.regnet import RegNet
from cupola.models.backbones.res2net import Res2Net
from cupola.models.backbones.resnest import ResNeSt
from cupola.models.backbones.resnet import ResNet, ResNetV1d, ResNeXt
from cupola.models.backbones.small_resnet import SmallResNet
from cupola.models.backbones.ssd_vgg import SSDVGG
from cupola.models.backbones.swin import SwinTransformer
from cupola.models.backbones.trident_resnet import TridentResNet
from cupola.models.backbones.vovnet import VoVNet

__all__ = [
    "SSDVGG",
    "CSPDarknet",
    "CSPNeXt",
    "ConvNeXt",
    "Darknet",
    "DetectoRSResNet",
    "EfficientNet",
    "HRNet",
    "HourglassNet",
    "MobileNetV2",
    "PyramidVisionTransformer",
    "PyramidVisionTransformerV2",
    "RegNet",
    "Res2Net",
    "ResNeSt",
    "ResNeXt",
    "ResNet",
    "ResNetV1d",
    "SmallResNet",
    "SwinTransformer",
    "TridentResNet",
    "VoVNet",
]
