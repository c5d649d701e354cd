"""What a model is made of: shapes, parameters, FLOPs, time, source; as text and as a page."""

from cupola.inspect.describe import Anatomy, Node, describe
from cupola.inspect.page import page

__all__ = ["Anatomy", "Node", "describe", "page"]
