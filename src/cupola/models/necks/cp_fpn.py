"""CPFPN: an FPN that computes only what PETR reads."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.necks.fpn import FPN
from cupola.registry import MODELS


@MODELS.register_module()
class CPFPN(FPN):
    """An FPN with an output convolution on its first level only; other levels are the laterals.

    Source: cp_fpn.py of PETR.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.start_level or self.extra_source:
            raise ValueError(
                "CPFPN: start_level and add_extra_convs are not supported; remove them or use FPN"
            )
        self.fpn_convs = nn.ModuleList(list(self.fpn_convs)[:1])

    def outputs(self, laterals: Sequence[Tensor]) -> list[Tensor]:
        return [self.fpn_convs[0](laterals[0]), *laterals[1:]]
