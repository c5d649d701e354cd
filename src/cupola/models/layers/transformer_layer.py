"""A transformer layer whose steps are configured, and a stack of such layers.

MMDetection 2.x and DETR3D describe their transformers by a list of attentions and an
`operation_order` such as ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.errors import BuildError, did_you_mean
from cupola.models.layers.building import build_norm
from cupola.models.layers.deformable_attention import MultiScaleDeformableAttention
from cupola.registry import MODELS
from cupola.registry.budget import reserve

OPERATIONS = ("self_attn", "cross_attn", "norm", "ffn")
Config = Mapping[str, Any]


@MODELS.register_module(["BaseTransformerLayer", "DetrTransformerDecoderLayer"])
class TransformerLayer(nn.Module):
    """Runs its operations in the configured order; pre-norm if the first one is a norm.

    State keys attentions.i, ffns.i, norms.i (source: mmcv/cnn/bricks/transformer.py).
    """

    def __init__(
        self,
        attn_cfgs: Config | Sequence[Config],
        operation_order: Sequence[str],
        ffn_cfgs: Config | None = None,
        norm_cfg: Config | None = None,
        batch_first: bool = False,
        feedforward_channels: int | None = None,
        ffn_dropout: float | None = None,
        ffn_num_fcs: int | None = None,
        act_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        for name in operation_order:
            if name not in OPERATIONS:
                hint = did_you_mean(name, OPERATIONS)
                raise BuildError(f"operation_order: {name!r} is not one of {OPERATIONS}{hint}")
        self.init_cfg = init_cfg
        self.operation_order = tuple(operation_order)
        self.pre_norm = self.operation_order[0] == "norm"
        self.attentions = nn.ModuleList(self._attentions(attn_cfgs, batch_first))
        self.embed_dims: int = self.attentions[0].embed_dims
        ffn: dict[str, Any] = {"type": "FFN", "embed_dims": self.embed_dims, **(ffn_cfgs or {})}
        for key, value in {
            "feedforward_channels": feedforward_channels,
            "ffn_drop": ffn_dropout,
            "num_fcs": ffn_num_fcs,
            "act_cfg": act_cfg,
        }.items():
            if value is not None:
                ffn[key] = value
        count = self.operation_order.count
        self.ffns = nn.ModuleList(MODELS.build(ffn) for _ in range(count("ffn")))
        norm = norm_cfg or {"type": "LN"}
        self.norms = nn.ModuleList(build_norm(norm, self.embed_dims) for _ in range(count("norm")))

    def _attentions(self, cfgs: Config | Sequence[Config], batch_first: bool) -> list[nn.Module]:
        wanted = sum(name.endswith("attn") for name in self.operation_order)
        each = [cfgs] * wanted if isinstance(cfgs, Mapping) else list(cfgs)
        if len(each) != wanted:
            raise BuildError(
                f"attn_cfgs: operation_order has {wanted} attentions, but {len(each)} are given"
            )
        return [MODELS.build({"batch_first": batch_first, **cfg}) for cfg in each]

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        query_key_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **sampling: Any,
    ) -> Tensor:
        """[B, Q, C] -> [B, Q, C] (or sequence first). The masks [B, K] are True at padding.

        Other keyword arguments go to the attentions that sample: reference points, camera matrices.
        """
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        identity = query
        for name in self.operation_order:
            residual = identity if self.pre_norm else None
            if name == "norm":
                query = next(norms)(query)
                continue
            if name == "self_attn":
                attention = next(attentions)
                deformable = isinstance(attention, MultiScaleDeformableAttention)
                query = attention(
                    query,
                    query,
                    query,
                    residual,
                    query_pos=query_pos,
                    key_pos=query_pos,
                    key_padding_mask=query_key_padding_mask,
                    **(sampling if deformable else {}),
                )
            elif name == "cross_attn":
                query = next(attentions)(
                    query,
                    key,
                    value,
                    residual,
                    query_pos=query_pos,
                    key_pos=key_pos,
                    key_padding_mask=key_padding_mask,
                    **sampling,
                )
            else:
                query = next(ffns)(query, residual)
            identity = query
        return query


class TransformerLayerSequence(nn.Module):
    """num_layers layers built from one config, or from one config each."""

    def __init__(
        self,
        transformerlayers: Config | Sequence[Config],
        num_layers: int,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(transformerlayers, Mapping):
            reserve(num_layers)
            transformerlayers = [transformerlayers] * num_layers
        cfgs = list(transformerlayers)
        if len(cfgs) != num_layers:
            raise BuildError(f"transformerlayers: expected {num_layers} configs, got {len(cfgs)}")
        self.init_cfg = init_cfg
        self.num_layers = num_layers
        self.layers = nn.ModuleList(MODELS.build(cfg) for cfg in cfgs)
        self.embed_dims: int = self.layers[0].embed_dims
        self.pre_norm: bool = self.layers[0].pre_norm
