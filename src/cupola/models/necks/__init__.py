"""Necks: feature maps of a backbone -> feature maps for a head."""

from cupola.models.necks.bfp import BFP
from cupola.models.necks.channel_mapper import ChannelMapper
from cupola.models.necks.cp_fpn import CPFPN
from cupola.models.necks.csp_pafpn import YOLOXPAFPN, CSPNeXtPAFPN
from cupola.models.necks.ct_resnet_neck import CTResNetNeck
from cupola.models.necks.dilated_encoder import DilatedEncoder
from cupola.models.necks.dyhead import DyHead
from cupola.models.necks.fpg import FPG
from cupola.models.necks.fpn import FPN, PAFPN, DropBlockFPN
from cupola.models.necks.fpn_carafe import CarafeFPN
from cupola.models.necks.hrfpn import HRFPN
from cupola.models.necks.nas_fpn import NASFCOSFPN, NASFPN
from cupola.models.necks.rfp import RFP
from cupola.models.necks.ssd_neck import SSDNeck
from cupola.models.necks.yolo_neck import YOLOV3Neck

__all__ = [
    "BFP",
    "CPFPN",
    "FPG",
    "FPN",
    "HRFPN",
    "NASFCOSFPN",
    "NASFPN",
    "PAFPN",
    "RFP",
    "YOLOXPAFPN",
    "CSPNeXtPAFPN",
    "CTResNetNeck",
    "CarafeFPN",
    "ChannelMapper",
    "DilatedEncoder",
    "DropBlockFPN",
    "DyHead",
    "SSDNeck",
    "YOLOV3Neck",
]
