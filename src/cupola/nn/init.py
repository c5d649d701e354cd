"""Initialisers."""

from torch.nn.init import *  # noqa: F403
from torch.nn.init import _calculate_fan_in_and_fan_out  # noqa: F401
