"""Building a model without values: its parameters stay on the meta device until it is loaded.

``torch.device("meta")`` as a context puts every tensor there, including tables that a constructor
computes and no checkpoint holds. Under :func:`on_meta` only parameters have no data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

# Maps each real parameter that was registered to its replacement, so that ties survive.
_replacements: ContextVar[WeakIdKeyDictionary | None] = ContextVar("replacements", default=None)


@contextmanager
def on_meta() -> Iterator[None]:
    """Give parameters a shape and dtype but no data while the context lasts, in torch.nn's modules
    as well. Afterwards call ``load_state_dict(state, assign=True)`` or ``to_empty``."""
    token = _replacements.set(WeakIdKeyDictionary())
    handle = register_module_parameter_registration_hook(_without_data)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
        _replacements.reset(token)


def parameter_device(device: torch.types.Device) -> torch.types.Device:
    """Return the device on which a layer should allocate its parameters."""
    return device if _replacements.get() is None else torch.device("meta")


def _without_data(module: Any, name: str, param: Parameter) -> Parameter:
    replacements = _replacements.get()
    if replacements is None or param.is_meta or is_lazy(param):
        return param
    if param not in replacements:
        empty = torch.empty_like(param, device="meta", requires_grad=False)
        replacements[param] = type(param)(empty, requires_grad=param.requires_grad)
    return replacements[param]
