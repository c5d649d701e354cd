"""What backbones share that are a chain of layers, each of which may give a feature map."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.freezing import freeze, keep_statistics


class LayerChain(nn.Module):
    """Abstract: x [B, 3, H, W] -> the maps after the layers `outputs`, in order.

    Layers without names are in a list `layers`. The first `frozen` layers do not train; with
    `norm_eval` batch norms use their running statistics in training too.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module] | Sequence[nn.Module],
        outputs: Collection[int],
        frozen: int,
        norm_eval: bool,
        init_cfg: Any,
    ) -> None:
        super().__init__()
        if not outputs or not 0 <= min(outputs) <= max(outputs) < len(layers):
            raise ValueError(f"out_indices: layers {sorted(outputs)} of {len(layers)}")
        if not 0 <= frozen <= len(layers):
            raise ValueError(f"frozen_stages: {frozen} layers of {len(layers)}")
        self.init_cfg = init_cfg
        self.names: tuple[str, ...] = ()
        self.outputs = tuple(outputs)
        self.frozen = frozen
        self.norm_eval = norm_eval
        if isinstance(layers, Mapping):
            self.names = tuple(layers)
            for name, layer in layers.items():
                self.add_module(name, layer)
        else:
            self.layers = nn.ModuleList(layers)
        self._freeze()

    @property
    def chain(self) -> list[nn.Module]:
        """The layers in order."""
        return [getattr(self, name) for name in self.names] or list(self.layers)

    def _freeze(self) -> None:
        freeze(self.chain[: self.frozen])

    def train(self, mode: bool = True) -> "LayerChain":
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for layer in self.chain[: max(self.outputs) + 1]:
            x = layer(x)
            maps.append(x)
        return tuple(each for i, each in enumerate(maps) if i in self.outputs)
