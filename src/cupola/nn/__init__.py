"""The Module core, and layers on it: use it as ``torch.nn``.

``cupola.nn.Module`` is no subclass of ``torch.nn.Module``. Functions on tensors are torch's own:
``import torch.nn.functional as F``.
"""

from torch.nn import Buffer, Parameter, functional

from cupola.nn import init, layers
from cupola.nn.layers import *  # noqa: F403
from cupola.nn.meta import on_meta
from cupola.nn.module import Module

__all__ = ["Buffer", "Module", "Parameter", "functional", "init", "on_meta"]
__all__ += layers.__all__
