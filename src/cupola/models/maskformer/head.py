"""MaskFormer's head: pixel decoder, DETR's decoder, and a class and a mask for every query."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr.nested import NestedDecoder
from cupola.models.detr.transformer import DetrTransformerDecoder
from cupola.models.layers.feature_levels import feature_mask, map_positions
from cupola.models.mask_classification import (
    MaskCriterion,
    MaskOutput,
    Segments,
    caffe2_xavier,
    mask_embedding,
    segments_of,
)
from cupola.models.maskformer.pixel_decoder import POSITIONS, PixelDecoder, build_positions
from cupola.models.matching import MaskMatchInputs
from cupola.parallel import SINGLE, Group
from cupola.registry import MODELS

Config = Mapping[str, Any]

CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "loss_weight": 1.0}
MASK_LOSS: Config = {"type": "FocalLoss", "loss_weight": 20.0}
DICE_LOSS: Config = {"type": "DiceLoss", "naive_dice": True, "eps": 1.0, "loss_weight": 1.0}
ASSIGNER: Config = {
    "type": "HungarianAssigner",
    "match_costs": [
        {"type": "ClassificationCost", "weight": 1.0},
        {"type": "FocalLossCost", "weight": 20.0, "binary_input": True},
        {"type": "DiceCost", "weight": 1.0, "pred_act": True, "eps": 1.0},
    ],
}


@MODELS.register_module()
class MaskFormerHead(nn.Module):
    """maps of the backbone -> MaskOutput, and its losses.

    A query's mask is the product of its embedding with the pixel decoder's features. Without
    `mask_padding` padding is attended to like any other cell, as in transformers.
    Source: mmdet/models/dense_heads/maskformer_head.py; paper (arXiv 2107.06278), section 3.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        pixel_decoder: Config,
        transformer_decoder: Config,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        num_queries: int = 100,
        enforce_decoder_input_project: bool = False,
        positional_encoding: Config = POSITIONS,
        loss_cls: Config = CLASS_LOSS,
        loss_mask: Config = MASK_LOSS,
        loss_dice: Config = DICE_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
        strides: Sequence[int] = (4, 8, 16, 32),
        mask_padding: bool = True,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.mask_padding = mask_padding
        self.num_things_classes = num_things_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        channels = {
            "in_channels": in_channels,
            "feat_channels": feat_channels,
            "out_channels": out_channels,
        }
        self.pixel_decoder = MODELS.build({**pixel_decoder, **channels})
        settings = {key: value for key, value in transformer_decoder.items() if key != "type"}
        nested = "transformerlayers" in settings  # MMDetection 2.x
        self.transformer_decoder = (
            NestedDecoder(**settings) if nested else DetrTransformerDecoder(**settings)
        )
        width = self.transformer_decoder.embed_dims
        projected = width != in_channels[-1] or enforce_decoder_input_project
        self.decoder_input_proj: nn.Module = nn.Identity()
        if isinstance(self.pixel_decoder, PixelDecoder) and projected:
            self.decoder_input_proj = nn.Conv2d(in_channels[-1], width, 1)
            caffe2_xavier(self.decoder_input_proj)
        self.decoder_pe = build_positions(positional_encoding)
        self.query_embed = nn.Embedding(num_queries, out_channels)
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = mask_embedding(feat_channels, out_channels)
        assigner = (train_cfg or {}).get("assigner", ASSIGNER)
        self.criterion = MaskCriterion(self.num_classes, loss_cls, loss_mask, loss_dice, assigner)
        for parameter in self.transformer_decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, maps: Sequence[Tensor], padding_mask: Tensor | None = None, last_only: bool = False
    ) -> MaskOutput:
        """maps [B, C_i, h_i, w_i], padding_mask [B, H, W] -> the output of every layer.

        With `last_only` the last decoder layer alone, L = 1.
        """
        padding_mask = padding_mask if self.mask_padding else None
        features, memory = self.pixel_decoder(maps, padding_mask)
        padding = feature_mask(padding_mask, memory)
        hidden = self.decode(self.decoder_input_proj(memory), padding)
        if last_only:
            hidden = hidden[-1:]
        masks = torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(hidden), features)
        return MaskOutput(self.cls_embed(hidden), masks)

    def decode(self, memory: Tensor, padding: Tensor | None) -> Tensor:
        """memory [B, C, h, w], padding [B, h, w] -> normed hidden states [L, B, Q, C]."""
        pos = map_positions(self.decoder_pe, memory, padding)
        cells, pos = (each.flatten(2).transpose(1, 2) for each in (memory, pos))  # [B, hw, C]
        queries = self.query_embed.weight[None].expand(len(memory), -1, -1)  # [B, Q, C]
        mask = None if padding is None else padding.flatten(1)
        hidden: Tensor = self.transformer_decoder(queries, cells, pos, mask)
        return hidden

    def loss(
        self, output: MaskOutput, targets: Sequence[Mapping[str, Tensor]], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Losses of every layer; `targets` hold labels [N] and masks [N, h, w], size is (H, W)."""
        segments = segments_of(targets, size)
        return self.criterion(output, segments, self.match, self.mask_loss, self.data_group)

    @torch.no_grad()
    def match(self, masks: Tensor, logits: Tensor, segments: Sequence[Segments]) -> list[Tensor]:
        """The segment of every query, -1 for none; targets are reduced to the size of the masks."""
        matches = []
        for each, scores, image in zip(masks, logits, segments, strict=True):
            wanted = F.interpolate(image.masks[:, None].float(), size=each.shape[-2:])
            matches.append(
                MaskMatchInputs(
                    logits=scores,
                    boxes=scores[:, :0],
                    target_labels=image.labels,
                    target_boxes=scores[:0, :0],
                    masks=each.flatten(1),
                    target_masks=wanted.flatten(1),
                )
            )
        found: list[Tensor] = self.criterion.assigner.assign(matches)
        return found

    def mask_loss(self, masks: Tensor, wanted: Tensor, count: float) -> tuple[Tensor, Tensor]:
        """Losses of masks [M, h, w], enlarged to their targets [M, H, W]."""
        masks = F.interpolate(masks[None], size=wanted.shape[-2:], mode="bilinear")[0]
        loss_dice = self.criterion.loss_dice(masks, wanted, avg_factor=count)
        # to the focal loss class 0 is the segment, and 1 the background
        pixels, labels = masks.reshape(-1, 1), 1 - wanted.flatten().long()
        area = wanted.shape[-2] * wanted.shape[-1]
        loss_mask = self.criterion.loss_mask(pixels, labels, avg_factor=count * area)
        return loss_mask, loss_dice
