"""What a model is made of: shapes, parameters, FLOPs, time, source; as text and as a page."""

from cupola.inspect.describe import ModelDescription, describe
from cupola.inspect.node import Node
from cupola.inspect.page import page

__all__ = ["ModelDescription", "Node", "describe", "page"]
