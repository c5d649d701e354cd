"""The Module core and its layers, with the names of ``torch.nn``.

``cupola.nn.Module`` is not a subclass of ``torch.nn.Module``; :func:`to_torch` converts a tree.
Functions on tensors are torch's own: ``import torch.nn.functional as F``.
"""

from torch.nn import (
    Buffer,
    Parameter,
    UninitializedBuffer,
    UninitializedParameter,
    functional,
    modules,
    utils,
)
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import (
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from cupola.nn import init, layers
from cupola.nn.bridge import from_torch, to_torch
from cupola.nn.layers import *  # noqa: F403
from cupola.nn.layers import torch_layers
from cupola.nn.layers.torch_layers import *  # noqa: F403
from cupola.nn.meta import on_meta
from cupola.nn.module import Module
from cupola.nn.stateless import functional_call

__all__ = [
    "Buffer",
    "LazyModuleMixin",
    "Module",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "from_torch",
    "functional",
    "functional_call",
    "init",
    "modules",
    "on_meta",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
    "to_torch",
    "utils",
]
__all__ += layers.__all__
__all__ += [name for name in vars(torch_layers) if not name.startswith("_")]
