"""How layers allocate their parameters."""

import torch
from torch.nn import Parameter

from cupola.nn import meta


def empty(
    *shape: int, device: torch.types.Device = None, dtype: torch.dtype | None = None
) -> Parameter:
    """Return a parameter of a shape without values, for an initializer to fill."""
    return Parameter(torch.empty(shape, device=meta.parameter_device(device), dtype=dtype))
