"""DINO: what differs from Deformable DETR.

Queries are learned contents at the encoder's best boxes; positions are encoded again from the boxes
of every layer; boxes of a layer also train the layer before (look forward twice); and training adds
denoising queries.

Letters: D decoder layers, B images, S cells of all levels, Q queries, M denoising queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.deformable_detr.deformable_detr import DeformableDETR, initialize
from cupola.models.deformable_detr.head import DeformableDETRHead
from cupola.models.deformable_detr.queries import Proposals, best_cells
from cupola.models.detr.set_head import DETROutput, Sizes
from cupola.models.dino.denoising import CdnQueryGenerator, Denoising
from cupola.models.layers import MLP, FeatureLevels, encode_references, refine_boxes
from cupola.models.layers.deformable_transformer import (
    Decoded,
    DeformableDecoderLayer,
    on_levels,
)
from cupola.models.set_prediction import QueryTargets, name_by_layer
from cupola.registry import MODELS

Config = Mapping[str, Any]
EPS = 1e-3  # of the logits that boxes are refined from


class BoxDecoder(nn.Module):
    """Abstract: decoder layers with positions computed from boxes, and a norm for the head.

    Subclasses define `forward`, which calls `layer`.
    """

    layer_class: ClassVar[type[Any]] = DeformableDecoderLayer

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        return_intermediate: bool = True,
        post_norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if post_norm_cfg is not None:
            raise ValueError("a deformable decoder has no post_norm; set post_norm_cfg=None")
        self.num_layers = num_layers
        self.layers = nn.ModuleList(self.layer_class(**layer_cfg) for _ in range(num_layers))
        C: int = self.layers[0].embed_dims
        self.embed_dims = C
        self.ref_point_head = MLP(2 * C, C, C, 2)
        self.norm = nn.LayerNorm(C)

    def layer(
        self,
        index: int,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        self_attn_mask: Tensor | None,
        **text: Tensor,
    ) -> Tensor:
        """One layer: query [B, Q, C] at boxes [B, Q, 4] -> [B, Q, C].

        Layers that also attend to a text take it as further arguments.
        """
        boxes = on_levels(references, levels)  # [B, Q, L, 4]
        waves = encode_references(boxes[:, :, 0], self.embed_dims // 2)
        result: Tensor = self.layers[index](
            query,
            value=memory,
            query_pos=self.ref_point_head(waves.to(query.dtype)),
            key_padding_mask=levels.padding,
            reference_points=boxes,
            spatial_shapes=levels.shapes,
            self_attn_mask=self_attn_mask,
            **text,
        )
        return result


class DinoTransformerDecoder(BoxDecoder):
    """Source: mmdet/models/layers/transformer/dino_layers.py."""

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        reg_branches: Sequence[nn.Module],
        self_attn_mask: Tensor | None = None,
        **text: Tensor,
    ) -> Decoded:
        """query [B, Q, C] at boxes [B, Q, 4] (cxcywh in 0..1) -> normed states and boxes."""
        states, before = [], [references]
        for index in range(self.num_layers):
            query = self.layer(index, query, references, memory, levels, self_attn_mask, **text)
            states.append(self.norm(query))
            if index + 1 < self.num_layers:
                refined = refine_boxes(references, reg_branches[index](query), EPS)
                references = refined.detach()
                before.append(refined)  # the boxes of the next layer train this one, too
        return Decoded(torch.stack(states), before)


@MODELS.register_module()
class DINOHead(DeformableDETRHead):
    """Deformable DETR's head, with the losses of denoising queries and of named proposals.

    Source: mmdet/models/dense_heads/dino_head.py.
    """

    def denoising_loss(
        self, output: DETROutput, targets: QueryTargets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """dn_loss_cls, dn_loss_bbox, dn_loss_iou, and d0.dn_... of the layers before the last."""
        layers = [
            self.set_losses(logits, boxes, targets, self.pixel_scales(boxes, sizes))
            for logits, boxes in zip(*output.at_least_float32(), strict=True)
        ]
        return name_by_layer(
            [{f"dn_{name}": value for name, value in layer.items()} for layer in layers]
        )


@MODELS.register_module()
class DINO(DeformableDETR):
    """DINO from configs of MMDetection 3.x.

    `dn_cfg` are the settings of CdnQueryGenerator; `num_queries` does not count denoising queries.
    Source: mmdet/models/detectors/dino.py.
    """

    nested_head: ClassVar[str | None] = None
    decoder_class: ClassVar[type[Any]] = DinoTransformerDecoder

    def __init__(
        self,
        *,
        with_box_refine: bool = True,
        as_two_stage: bool = True,
        dn_cfg: Config | None = None,
        **settings: Any,
    ) -> None:
        if not (with_box_refine and as_two_stage):
            name = type(self).__name__
            raise ValueError(f"{name} needs with_box_refine=True and as_two_stage=True")
        super().__init__(with_box_refine=True, as_two_stage=True, **settings)
        self.dn_query_generator = CdnQueryGenerator(
            num_classes=self.bbox_head.num_classes, embed_dims=self.embed_dims, **(dn_cfg or {})
        )

    def build_queries(self) -> None:
        """The parameters that queries are made from."""
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
        self.build_proposals()
        initialize(self.query_embedding)

    def build_proposals(self) -> None:
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)
        initialize(self.memory_trans_fc)

    def decode(
        self, pixels: Tensor, padding_mask: Tensor | None, denoising: Denoising | None = None
    ) -> tuple[Decoded, Proposals]:
        """The states of all layers, denoising queries first, and the proposals of the others."""
        levels = self.levels(self.maps(pixels), padding_mask)
        memory = self.encoder(levels)
        proposals = self.propose(memory, levels)
        best = best_cells(proposals.logits.max(-1).values, self.num_queries)
        chosen = proposals.take(best)  # [B, Q]
        content = self.query_embedding.weight[None].expand(memory.shape[0], -1, -1)
        boxes, mask = chosen.boxes.detach(), None
        if denoising is not None:
            mask = denoising.mask(self.num_queries)
            content = torch.cat((denoising.content, content), 1)  # [B, M + Q, C]
            boxes = torch.cat((denoising.boxes, boxes), 1)
        branches = self.bbox_head.reg_branches
        return self.decoder(content, boxes.sigmoid(), memory, levels, branches, mask), chosen

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, image_sizes, targets (boxes xyxy in pixels).

        Denoising queries and their losses are part of it in training mode only.
        """
        targets, sizes, head = batch["targets"], batch["image_sizes"], self.bbox_head
        denoising = self.dn_query_generator(targets, sizes) if self.training else None
        decoded, chosen = self.decode(batch["pixels"], batch.get("padding_mask"), denoising)
        noisy, output = split(head(*decoded), denoising.count if denoising else 0)
        losses: dict[str, Tensor] = head.loss(output, targets, sizes)
        losses |= head.encoder_loss(chosen, targets, sizes)
        if denoising is not None:
            losses |= head.denoising_loss(noisy, denoising.targets, sizes)
        return losses


def split(output: DETROutput, count: int) -> tuple[DETROutput, DETROutput]:
    """The first `count` queries, and the others."""
    parts = [(each[:, :, :count], each[:, :, count:]) for each in output]
    first, others = zip(*parts, strict=True)
    return DETROutput(*first), DETROutput(*others)
