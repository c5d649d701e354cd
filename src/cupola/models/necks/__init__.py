"""Necks: from a backbone's feature maps to those that the head reads."""

from cupola.models.necks.channel_mapper import ChannelMapper

__all__ = ["ChannelMapper"]
