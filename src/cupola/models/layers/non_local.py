"""Non-local block (arXiv 1711.07971): every cell attends to all cells of the map."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_module import ConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]
MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


@MODELS.register_module()
class NonLocal2d(nn.Module):
    """x [B, C, H, W] -> x + conv_out(attention(x)), of the same shape.

    `mode` is how the weight of two cells is computed (section 3.2). With `sub_sample`, keys and
    values are pooled by 2 x 2. Source: mmcv/cnn/bricks/non_local.py; state keys g, conv_out,
    theta, phi, concat_project.
    """

    plugin_name = "nonlocal_block"
    own_initialization = True

    def __init__(
        self,
        in_channels: int,
        sub_sample: bool = False,
        conv_cfg: Config | None = None,
        reduction: int = 2,
        use_scale: bool = True,
        norm_cfg: Config | None = None,
        mode: str = "embedded_gaussian",
        std: float = 0.01,
        zeros_init: bool = True,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is one of {MODES}, got {mode!r}")
        self.mode = mode
        self.use_scale = use_scale
        width = max(in_channels // reduction, 1)
        plain: dict[str, Any] = {"conv_cfg": conv_cfg, "act_cfg": None}
        g = ConvModule(in_channels, width, 1, **plain)
        self.g: nn.Module = g
        self.conv_out = ConvModule(width, in_channels, 1, norm_cfg=norm_cfg, **plain)
        self.theta: nn.Module | None = None
        self.phi: nn.Module | None = None
        if mode != "gaussian":
            self.theta = ConvModule(in_channels, width, 1, **plain)
            self.phi = ConvModule(in_channels, width, 1, **plain)
        self.concat_project = None
        if mode == "concatenation":
            self.concat_project = ConvModule(2 * width, 1, 1, bias=False)
        self._initialize(std, zeros_init)
        if sub_sample:
            pool = nn.MaxPool2d(2)
            self.g = nn.Sequential(g, pool)
            self.phi = pool if self.phi is None else nn.Sequential(self.phi, pool)

    def _initialize(self, std: float, zeros_init: bool) -> None:
        for part in (self.g, self.theta, self.phi):
            if isinstance(part, ConvModule):
                _draw(part.conv, std)
        name = self.conv_out.norm_name or "conv"
        _draw(getattr(self.conv_out, name), 0.0 if zeros_init else std)

    def forward(self, x: Tensor) -> Tensor:
        values = self.g(x).flatten(2).transpose(1, 2)  # [B, keys, width]
        queries = (x if self.theta is None else self.theta(x)).flatten(2)
        keys = (x if self.phi is None else self.phi(x)).flatten(2)
        out = torch.matmul(self._weights(queries, keys), values)  # [B, H * W, width]
        maps = torch.unflatten(out.transpose(1, 2), 2, x.shape[2:])
        return x + self.conv_out(maps)

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries [B, width, N] and keys [B, width, M] -> their weights [B, N, M]."""
        if self.concat_project is not None:
            N, M = queries.shape[-1], keys.shape[-1]
            pairs = (
                queries[..., None].expand(-1, -1, -1, M),
                keys[:, :, None].expand(-1, -1, N, -1),
            )
            return self.concat_project(torch.cat(pairs, 1))[:, 0] / M
        products = torch.matmul(queries.transpose(1, 2), keys)
        if self.mode == "dot_product":
            return products / keys.shape[-1]
        if self.mode == "embedded_gaussian" and self.use_scale:
            products = products / queries.shape[1] ** 0.5
        return products.softmax(-1)


def _draw(layer: Any, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
