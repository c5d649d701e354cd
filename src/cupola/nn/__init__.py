"""The Module core and its layers, with the names of ``torch.nn``.

``cupola.nn.Module`` is not a subclass of ``torch.nn.Module``; :func:`to_torch` converts a tree.
Functions on tensors are torch's own: ``import torch.nn.functional as F``.
"""

# ruff: noqa: F403, I001
# fmt: off

from torch.nn import (
    Buffer as Buffer, Parameter as Parameter, UninitializedBuffer as UninitializedBuffer,
    UninitializedParameter as UninitializedParameter, functional as functional, modules as modules,
    utils as utils,
)
from torch.nn.modules.lazy import LazyModuleMixin as LazyModuleMixin
from torch.nn.modules.module import (
    register_module_backward_hook as register_module_backward_hook,
    register_module_buffer_registration_hook as register_module_buffer_registration_hook,
    register_module_forward_hook as register_module_forward_hook,
    register_module_forward_pre_hook as register_module_forward_pre_hook,
    register_module_full_backward_hook as register_module_full_backward_hook,
    register_module_full_backward_pre_hook as register_module_full_backward_pre_hook,
    register_module_module_registration_hook as register_module_module_registration_hook,
    register_module_parameter_registration_hook as register_module_parameter_registration_hook,
)

from cupola.nn import init as init, layers as layers
from cupola.nn.bridge import from_torch as from_torch, to_torch as to_torch
from cupola.nn.layers import *
from cupola.nn.layers.torch_layers import *
from cupola.nn.meta import on_meta as on_meta
from cupola.nn.module import Module as Module, functional_call as functional_call

# All public names, and of the files of this package only ``init``.
__all__ = [
    name
    for name, value in list(globals().items())
    if name == "init"
    or not (name.startswith("_") or getattr(value, "__name__", "").startswith("cupola.nn."))
]
