"""Building a model without filling its parameters: they stay on the meta device until loaded.

``torch.device("meta")`` as a context works too, but puts every tensor there, also tables that a
constructor computes and no checkpoint holds. Under :func:`on_meta` only parameters are without
data; buffers are real.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn import Parameter
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

# Maps each real parameter met inside the context to its stand-in, so that ties survive.
_stand_ins: ContextVar[WeakIdKeyDictionary | None] = ContextVar("stand_ins", default=None)


@contextmanager
def on_meta() -> Iterator[None]:
    """Give parameters shape and dtype but no data while the context lasts.

    Load them afterwards with ``load_state_dict(state, assign=True)``, or allocate them with
    ``to_empty``.
    """
    token = _stand_ins.set(WeakIdKeyDictionary())
    try:
        yield
    finally:
        _stand_ins.reset(token)


def parameter_device(device: torch.types.Device) -> torch.types.Device:
    """Return where a layer should allocate its parameters."""
    return device if _stand_ins.get() is None else torch.device("meta")


def strip(param: Parameter) -> Parameter:
    """Return the parameter, or inside :func:`on_meta` its stand-in without data."""
    stand_ins = _stand_ins.get()
    if stand_ins is None or param.is_meta or is_lazy(param):
        return param
    if param not in stand_ins:
        empty = torch.empty_like(param, device="meta", requires_grad=False)
        stand_ins[param] = type(param)(empty, requires_grad=param.requires_grad)
    return stand_ins[param]
