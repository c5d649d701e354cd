"""What a model is made of: shapes, parameters, FLOPs, time, source; as text and as a page."""

from cupola.anatomy.describe import Anatomy, Node, describe
from cupola.anatomy.page import page

__all__ = ["Anatomy", "Node", "describe", "page"]
