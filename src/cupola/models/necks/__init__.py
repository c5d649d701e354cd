"""Necks: from a backbone's feature maps to those that the head reads."""

from cupola.models.necks.channel_mapper import ChannelMapper
from cupola.models.necks.fpn import FPN

__all__ = ["FPN", "ChannelMapper"]
