"""Necks: feature maps of a backbone -> feature maps for a head."""

from cupola.models.necks.channel_mapper import ChannelMapper
from cupola.models.necks.fpn import FPN

__all__ = ["FPN", "ChannelMapper"]
