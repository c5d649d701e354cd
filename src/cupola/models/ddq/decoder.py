"""The decoder of DDQ DETR: distinct queries are selected again after every layer.

Letters: D layers, B images, Q distinct queries, N queries of all kinds, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cupola.models.ddq.distinct import DistinctSelection, distinct_mask
from cupola.models.ddq.head import DDQDETRHead
from cupola.models.dino.dino import EPS, BoxDecoder
from cupola.models.layers import FeatureLevels, refine_boxes


class Parts(NamedTuple):
    """How the queries are ordered: `noisy` denoising ones, `distinct` ones, `dense` ones."""

    noisy: int
    distinct: int
    dense: int


class DistinctDecoded(NamedTuple):
    """states: [D, B, N, C]. references: [B, N, 4] before each layer. distinct: [D, B, Q] bool.

    `distinct` are the queries that took part in each layer.
    """

    states: Tensor
    references: list[Tensor]
    distinct: Tensor


class DDQTransformerDecoder(BoxDecoder):
    """DINO's decoder with the selection of distinct queries between its layers.

    Source: mmdet/models/layers/transformer/ddq_detr_layers.py.
    """

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        head: DDQDETRHead,
        selection: DistinctSelection,
        parts: Parts,
        mask: Tensor,
    ) -> DistinctDecoded:
        """query [B, N, C] at boxes [B, N, 4]; mask [N, N], True = must not see."""
        noisy, Q, _ = parts
        heads = self.layers[0].self_attn.num_heads
        candidates = torch.ones(query.shape[0], Q, dtype=torch.bool, device=query.device)
        states, before, distinct, masks = [], [references], [candidates], mask
        for index in range(self.num_layers):
            query = self.layer(index, query, references, memory, levels, masks)
            states.append(self.norm(query))
            if index < self.num_layers - 1:
                refined = refine_boxes(references, head.regress(index, query, parts.dense), EPS)
                references = refined.detach()
                before.append(refined)
                own = slice(noisy, noisy + Q)
                scores = head.cls_branches[index](query[:, own]).sigmoid().max(-1).values
                kept, candidates = selection.visible(references[:, own], scores, candidates)
                masks = distinct_mask(mask, kept, noisy, heads)
                distinct.append(candidates)
        return DistinctDecoded(torch.stack(states), before, torch.stack(distinct))
