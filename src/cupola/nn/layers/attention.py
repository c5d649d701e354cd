"""Multi-head attention. Source: Vaswani et al. 2017; torch.nn.modules.activation.

Letters: B batch, L query length, S key length, E embed_dim, h heads, d = E / h.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cupola.nn import init
from cupola.nn.hooks import HOOKED
from cupola.nn.layers.factory import Layer, empty
from cupola.nn.layers.linear import Linear


class MultiheadAttention(Layer):
    """softmax(Q K^T / sqrt(d)) V in h heads, between an input and an output projection.

    The three input projections are packed in ``in_proj_weight`` [3E, E]. If keys or values have
    another width (kdim, vdim), they are ``q_proj_weight``, ``k_proj_weight``, ``v_proj_weight``.

    Masks: bool, True = not attended to; or float, added to the scores.

    ValueError if embed_dim or num_heads is not positive, AssertionError if h does not divide E.
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0, got "
                f"embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        self.embed_dim = embed_dim
        self.kdim = kdim if kdim is not None else embed_dim
        self.vdim = vdim if vdim is not None else embed_dim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        self.add_zero_attn = add_zero_attn
        self._allocate(bias, add_bias_kv, device, dtype)
        self._reset_parameters()

    def _allocate(
        self,
        bias: bool,
        add_bias_kv: bool,
        device: torch.types.Device,
        dtype: torch.dtype | None,
    ) -> None:
        E, packed = self.embed_dim, self._qkv_same_embed_dim
        shapes: dict[str, tuple[int, ...] | None] = {
            "q_proj_weight": None if packed else (E, E),
            "k_proj_weight": None if packed else (E, self.kdim),
            "v_proj_weight": None if packed else (E, self.vdim),
            "in_proj_weight": (3 * E, E) if packed else None,
            "in_proj_bias": (3 * E,) if bias else None,
        }
        if add_bias_kv:
            shapes |= {"bias_k": (1, 1, E), "bias_v": (1, 1, E)}
        else:
            self.bias_k = self.bias_v = None
        for name, shape in shapes.items():
            values = None if shape is None else empty(*shape, device=device, dtype=dtype)
            self.register_parameter(name, values)
        self.out_proj = Linear(E, E, bias=bias, device=device, dtype=dtype)

    def _reset_parameters(self) -> None:
        """Draw weights by Xavier uniform, bias_k and bias_v by Xavier normal; zero the biases."""
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        for weight in (self.in_proj_weight,) if self._qkv_same_embed_dim else weights:
            assert weight is not None
            init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend. Without ``batch_first`` the first two axes are swapped. The batch is optional.

        Args:
            query: [B, L, E]; key: [B, S, kdim]; value: [B, S, vdim].
            key_padding_mask: [B, S].
            need_weights: return the weights too, without which a fused kernel can be used.
            attn_mask: [L, S] or [B * h, L, S].
            average_attn_weights: return their mean over the heads.
            is_causal: a hint that attn_mask is the causal mask.

        Returns:
            output [B, L, E], and weights [B, L, S], or [B, h, L, S], or None.
        """
        batched = F._mha_shape_check(  # type: ignore[attr-defined]
            query, key, value, key_padding_mask, attn_mask, self.num_heads
        )
        why_not_fused = self._why_not_fused(query, key, value, key_padding_mask, attn_mask)
        if not why_not_fused:
            mask = _join_masks(self.num_heads, query, key, key_padding_mask, attn_mask, is_causal)
            return self._fused(query, mask, need_weights, average_attn_weights)
        if query.is_nested or key.is_nested or value.is_nested:
            raise AssertionError(
                "MultiheadAttention does not support NestedTensor outside of its fast path. "
                f"The fast path was not hit because {why_not_fused}"
            )
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = _swap_batch(query, key, value)
        mask = _join_masks(self.num_heads, query, key, key_padding_mask, attn_mask, is_causal)
        output, weights = self._attend(query, key, value, mask, need_weights, average_attn_weights)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _why_not_fused(
        self, query: Tensor, key: Tensor, value: Tensor, *masks: Tensor | None
    ) -> str:
        """Return why torch's fused kernel for inference cannot be used, or ""."""
        weights = (self.in_proj_weight, self.in_proj_bias, self.out_proj.weight, self.out_proj.bias)
        tensors = [query, *(weight for weight in weights if weight is not None)]
        if self.training:
            return "training is enabled"
        if query is not key or key is not value or query.dim() != 3 or not self.batch_first:
            return "batched self-attention, batch_first, has one tensor for query, key and value"
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return (
                "grad is enabled and at least one of query or the input/output projection weights "
                "or biases requires_grad"
            )
        if len(tensors) != 5 or self.bias_k is not None or self.add_zero_attn or self.num_heads % 2:
            return "it has packed projections with biases, an even number of heads, no extra keys"
        if torch.overrides.has_torch_function(tensors):
            return "some Tensor argument has_torch_function"
        if any(tensor.dtype != query.dtype for tensor in tensors) or torch.is_autocast_enabled():
            return "query and weights must have the same dtype, without autocast"
        given = [mask for mask in masks if mask is not None]
        if any(mask.dtype != torch.bool for mask in given) or (given and query.is_nested):
            return "masks must be bool, and nested tensors have none"
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state()
        if traced or HOOKED in self.out_proj.__dict__ or query.device.type not in ("cpu", "cuda"):
            return "the module is traced or has hooks, or the device has no such kernel"
        return "" if torch.backends.mha.get_fastpath_enabled() else "the fast path is disabled"

    def _fused(
        self, x: Tensor, mask: Tensor | None, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        if mask is not None:
            mask = mask.expand(x.shape[0], self.num_heads, -1, -1).expand(-1, -1, x.shape[1], -1)
        weights: Any = (self.in_proj_weight, self.in_proj_bias)
        weights += (self.out_proj.weight, self.out_proj.bias)
        kind = None if mask is None else 2  # one mask of [B, h, L, S]
        settings = (mask, need_weights, average, kind)
        return torch._native_multi_head_attention(  # type: ignore[call-arg]
            x, x, x, self.embed_dim, self.num_heads, *weights, *settings
        )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        E, weight = self.embed_dim, self.in_proj_weight
        bias = None if self.in_proj_bias is None else self.in_proj_bias.to(query.dtype)
        if weight is not None and query is key and key is value:
            q, k, v = F.linear(query, weight, bias).chunk(3, dim=-1)
            return q, k, v
        if weight is not None and key is value:
            k, v = F.linear(key, weight[E:], None if bias is None else bias[E:]).chunk(2, dim=-1)
            return F.linear(query, weight[:E], None if bias is None else bias[:E]), k, v
        parts: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = parts if weight is None else weight.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = map(F.linear, (query, key, value), weights, biases)
        return q, k, v

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        need_weights: bool,
        average: bool,
    ) -> tuple[Tensor, Tensor | None]:
        B, _, E = query.shape
        q, k, v = self._project(query, key, value)  # [B, L or S, E]
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(B, 1, E)], dim=1)
            v = torch.cat([v, self.bias_v.expand(B, 1, E)], dim=1)
        q, k, v = (
            t.reshape(B, -1, self.num_heads, self.head_dim).transpose(1, 2) for t in (q, k, v)
        )
        if self.add_zero_attn:
            k, v = (
                torch.cat([t, t.new_zeros(B, self.num_heads, 1, self.head_dim)], 2) for t in (k, v)
            )
        if mask is not None and mask.shape[-1] < k.shape[2]:
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)  # [B, h, L, S]
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            heads = weights @ v
            weights = weights.mean(dim=1) if average else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(heads.transpose(1, 2).flatten(2)), weights


def _swap_batch(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Identical inputs stay identical objects, which allows one projection for all of them.
    q = query.transpose(0, 1)
    k = q if key is query else key.transpose(0, 1)
    v = k if value is key else value.transpose(0, 1)
    return q, k, v


def _join_masks(
    heads: int,
    query: Tensor,
    key: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
) -> Tensor | None:
    """Return both masks as one that is added to the scores [B, h, L, S], or None."""
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module "
            "method `generate_square_subsequent_mask` to create this mask."
        )
    if attn_mask is None and key_padding_mask is None:
        return None
    B, L, S, h = query.shape[0], query.shape[1], key.shape[1], heads
    joined = None
    if attn_mask is not None:
        if attn_mask.shape not in ((L, S), (B * h, L, S)):
            raise RuntimeError(
                f"The shape of attn_mask is {tuple(attn_mask.shape)}, but should be {(L, S)} or "
                f"{(B * h, L, S)}."
            )
        joined = _additive(attn_mask, query.dtype)
        joined = joined.reshape(B, h, L, S) if attn_mask.dim() == 3 else joined[None, None]
    if key_padding_mask is not None:
        if key_padding_mask.shape != (B, S):
            raise AssertionError(
                f"key_padding_mask should be of shape {(B, S)}, got {tuple(key_padding_mask.shape)}"
            )
        padding = _additive(key_padding_mask, query.dtype)[:, None, None]  # [B, 1, 1, S]
        joined = padding if joined is None else joined + padding
    return joined


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    if not mask.is_floating_point():
        raise AssertionError("only bool and floating types of masks are supported")
    return mask.to(dtype)
