"""VocabParallelEmbedding: each rank holds an equal range of the rows.

A vocabulary that the ranks do not divide is padded with rows of zeros at the end. No id selects
them, and `mask_padding` removes them from the logits of a tied head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.nn.meta import parameter_device
from cupola.parallel.groups import Group, alone
from cupola.parallel.layers import Init
from cupola.parallel.mappings import reduce_from_ranks
from cupola.parallel.recording import is_recorded


class VocabParallelEmbedding(nn.Module):
    """ids [...] int64 in 0..V-1 -> [..., H]. InputError for an id out of range.

    The weight is [ceil(V/P), H]: rows `first` up to `last` of the table, then padding.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        init: Init = nn.init.xavier_normal_,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.group = alone(group)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.shard_dims = {"weight": 0}
        self.padded_dims = {"weight": num_embeddings}
        rows = -(-num_embeddings // self.group.size)
        self.first = min(self.group.rank * rows, num_embeddings)
        self.last = min(self.first + rows, num_embeddings)
        self.compute_dtype: torch.dtype | None = None  # of the rows that are returned
        where = parameter_device(device)
        self.weight = nn.Parameter(torch.zeros(rows, embedding_dim, device=where, dtype=dtype))
        self._draw(init)

    def _draw(self, init: Init) -> None:
        if self.weight.device.type == "meta":
            return
        shape = (self.num_embeddings, self.embedding_dim)
        with torch.no_grad():
            if self.group.size == 1:
                init(self.weight)
                return
            master = torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)
            init(master)
            self.weight[: self.last - self.first] = master[self.first : self.last]

    def forward(self, ids: Tensor) -> Tensor:
        self._check(ids)
        if self.group.size == 1:
            return F.embedding(ids, self.weight).to(self.compute_dtype or self.weight.dtype)
        elsewhere = (ids < self.first) | (ids >= self.last)
        local = (ids - self.first).masked_fill(elsewhere, 0)
        rows = F.embedding(local, self.weight).to(self.compute_dtype or self.weight.dtype)
        rows = rows.masked_fill(elsewhere[..., None], 0.0)  # [..., H]
        return reduce_from_ranks(rows, self.group)

    def mask_padding(self, logits: Tensor) -> Tensor:
        """This rank's logits [..., ceil(V/P)], those of padded rows at the lowest finite value."""
        rows = self.last - self.first
        if rows == logits.shape[-1]:
            return logits
        padded = torch.arange(logits.shape[-1], device=logits.device) >= rows
        return logits.masked_fill(padded, torch.finfo(logits.dtype).min)

    def _check(self, ids: Tensor) -> None:
        if ids.numel() == 0 or ids.device.type == "meta" or torch.compiler.is_compiling():
            return
        if is_recorded(ids):
            return
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= self.num_embeddings:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is not in 0..{self.num_embeddings - 1}")

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


def padded_rows(module: Any) -> dict[str, int]:
    """Parameter name -> true length along its split dimension, where ranks may hold padding."""
    return getattr(module, "padded_dims", {})
