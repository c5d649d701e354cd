"""DDOD (arXiv 2107.02963): anchors for classes and for boxes are chosen apart, by predictions."""

from cupola.models.ddod.head import DDOD, DDODHead

__all__ = ["DDOD", "DDODHead"]
