"""Deformable DETR, the detector: backbone, neck, deformable transformer, head."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.deformable_detr.inspection import inspect_deformable
from cupola.models.deformable_detr.queries import (
    Proposals,
    Queries,
    best_cells,
    learned_queries,
    propose,
    proposed_queries,
)
from cupola.models.detr.detector import QueryDetector
from cupola.models.detr.set_head import DETROutput
from cupola.models.layers import (
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
    FeatureLevels,
    MultiScaleDeformableAttention,
    SinePositionalEncoding,
    flatten_levels,
)
from cupola.models.layers.deformable_transformer import Decoded
from cupola.registry import MODELS

Config = Mapping[str, Any]
POSITIONS: Config = {"num_feats": 128, "normalize": True, "offset": -0.5}


@MODELS.register_module()
class DeformableDETR(QueryDetector):
    """Deformable DETR from configs of MMDetection 3.x and 2.x.

    `with_box_refine`: every layer refines the boxes of the one before. `as_two_stage`: queries are
    the encoder's best proposals instead of learned ones. In 2.x both are keys of `bbox_head`, to
    which the transformer belongs.
    Source: mmdet/models/detectors/deformable_detr.py.
    """

    nested_head: ClassVar[str | None] = "NestedDeformableDETRHead"
    encoder_class: ClassVar[type[Any]] = DeformableDetrTransformerEncoder
    decoder_class: ClassVar[type[Any]] = DeformableDetrTransformerDecoder

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        neck: Config | None = None,
        encoder: Config | None = None,
        decoder: Config | None = None,
        positional_encoding: Config | None = None,
        num_queries: int = 100,
        with_box_refine: bool = False,
        as_two_stage: bool = False,
        num_feature_levels: int = 4,
        **settings: Any,
    ) -> None:
        if decoder is not None:
            bbox_head = {
                **bbox_head,
                "share_pred_layer": not with_box_refine,
                "num_pred_layer": decoder["num_layers"] + as_two_stage,
                "as_two_stage": as_two_stage,
            }
        super().__init__(backbone, bbox_head, neck, **settings)
        if self.nested:
            return
        if encoder is None or decoder is None:
            raise ValueError(
                f"{type(self).__name__} needs `encoder` and `decoder` (MMDetection 3.x), or a "
                "`transformer` in its bbox_head (2.x)"
            )
        self.with_box_refine = with_box_refine
        self.as_two_stage = as_two_stage
        self.num_queries = num_queries
        self.positional_encoding = SinePositionalEncoding(**(positional_encoding or POSITIONS))
        self.encoder = self.encoder_class(**encoder)
        self.decoder = self.decoder_class(**decoder)
        self.embed_dims: int = self.encoder.embed_dims
        self.level_embed = nn.Parameter(torch.randn(num_feature_levels, self.embed_dims))
        self.build_queries()
        initialize(self.encoder, self.decoder)

    def build_queries(self) -> None:
        """The parameters that queries are made from."""
        C = self.embed_dims
        if self.as_two_stage:
            self.memory_trans_fc = nn.Linear(C, C)
            self.memory_trans_norm = nn.LayerNorm(C)
            self.pos_trans_fc = nn.Linear(2 * C, 2 * C)
            self.pos_trans_norm = nn.LayerNorm(2 * C)
            initialize(self.memory_trans_fc, self.pos_trans_fc)
        else:
            self.query_embedding = nn.Embedding(self.num_queries, 2 * C)
            self.reference_points_fc = nn.Linear(C, 2)
            initialize(self.reference_points_fc)
            nn.init.zeros_(self.reference_points_fc.bias)

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, last_only: bool = False
    ) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> DETROutput.

        `last_only`: of the last decoder layer alone, with L = 1.
        """
        output: DETROutput = self.bbox_head(*self.decode(pixels, padding_mask)[0], last_only)
        return output

    def decode(
        self, pixels: Tensor, padding_mask: Tensor | None
    ) -> tuple[Decoded, Proposals | None]:
        """The states of all decoder layers, and in two stages what the encoder proposed."""
        maps = self.maps(pixels)
        if self.nested:
            found: tuple[Decoded, Proposals | None] = self.bbox_head.decode(maps, padding_mask)
            return found
        levels = self.levels(maps, padding_mask)
        memory = self.encoder(levels)
        queries, proposals = self.queries(memory, levels)
        branches = self.bbox_head.reg_branches if self.with_box_refine else None
        references = queries.references
        return (
            self.decoder(queries.content, queries.position, references, memory, levels, branches),
            proposals,
        )

    def levels(self, maps: tuple[Tensor, ...], padding_mask: Tensor | None) -> FeatureLevels:
        """Feature maps [B, C, h_i, w_i] as one sequence of cells."""
        return flatten_levels(maps, padding_mask, self.positional_encoding, self.level_embed)

    def queries(self, memory: Tensor, levels: FeatureLevels) -> tuple[Queries, Proposals | None]:
        """memory [B, S, C] -> the queries of the decoder, and in two stages the proposals."""
        if not self.as_two_stage:
            embedding = self.query_embedding.weight
            return learned_queries(embedding, self.reference_points_fc, memory.shape[0]), None
        proposals = self.propose(memory, levels)
        best = best_cells(proposals.logits[..., 0], self.num_queries)
        boxes = proposals.take(best).boxes
        return proposed_queries(boxes, self.pos_trans_fc, self.pos_trans_norm), proposals

    def propose(self, memory: Tensor, levels: FeatureLevels) -> Proposals:
        """memory [B, S, C] -> what the encoder's own branches find in every cell."""
        head, layer = self.bbox_head, self.decoder.num_layers
        branches = head.cls_branches[layer], head.reg_branches[layer]
        return propose(memory, levels, self.memory_trans_fc, self.memory_trans_norm, *branches)

    def inspect(self, pixels: Tensor) -> dict[str, Tensor]:
        """Where each layer's queries sampled one image; see inspect_deformable."""
        return inspect_deformable(self, pixels)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, image_sizes, targets (boxes xyxy in pixels)."""
        decoded, proposals = self.decode(batch["pixels"], batch.get("padding_mask"))
        targets, sizes = batch["targets"], batch["image_sizes"]
        losses: dict[str, Tensor] = self.bbox_head.loss(self.bbox_head(*decoded), targets, sizes)
        if proposals is not None:
            losses |= self.bbox_head.proposal_loss(proposals, targets, sizes)
        return losses


def initialize(*parts: nn.Module) -> None:
    """Xavier initialization of all matrices, then that of the deformable attentions."""
    for part in parts:
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in part.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
