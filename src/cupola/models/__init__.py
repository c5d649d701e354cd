"""The models. Importing this room registers every class that a config can name."""

from cupola.models import backbones, detr, layers, losses, matching, necks

__all__ = ["backbones", "detr", "layers", "losses", "matching", "necks"]
