"""Initializers: they fill a tensor in place and return it.

They are torch's own, since the same seed must give the same weights, except that a tensor on the
meta device is returned as it is: there is nothing to fill, and asking torch costs time.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.nn import init as torch_init

Fill = Callable[..., Tensor]


def _unless_meta(fill: Fill) -> Fill:
    @wraps(fill)
    def initialize(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *args, **kwargs)

    return initialize


constant_ = _unless_meta(torch_init.constant_)
dirac_ = _unless_meta(torch_init.dirac_)
eye_ = _unless_meta(torch_init.eye_)
kaiming_normal_ = _unless_meta(torch_init.kaiming_normal_)
kaiming_uniform_ = _unless_meta(torch_init.kaiming_uniform_)
normal_ = _unless_meta(torch_init.normal_)
ones_ = _unless_meta(torch_init.ones_)
orthogonal_ = _unless_meta(torch_init.orthogonal_)
sparse_ = _unless_meta(torch_init.sparse_)
trunc_normal_ = _unless_meta(torch_init.trunc_normal_)
uniform_ = _unless_meta(torch_init.uniform_)
xavier_normal_ = _unless_meta(torch_init.xavier_normal_)
xavier_uniform_ = _unless_meta(torch_init.xavier_uniform_)
zeros_ = _unless_meta(torch_init.zeros_)


def __getattr__(name: str) -> Any:
    # The rest is as torch has it: calculate_gain, and what it keeps for old code.
    return getattr(torch_init, name)
