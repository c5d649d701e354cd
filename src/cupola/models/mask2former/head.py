"""Mask2Former's head: queries refine their masks by attending within them, level by level."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr.nested import NestedDecoder
from cupola.models.layers.feature_levels import map_positions
from cupola.models.layers.point_sampling import point_sample, uncertain_points
from cupola.models.mask2former.decoder import Mask2FormerTransformerDecoder
from cupola.models.mask_classification import (
    MaskCriterion,
    MaskOutput,
    Segments,
    caffe2_xavier,
    mask_embedding,
    segments_of,
)
from cupola.models.maskformer.pixel_decoder import POSITIONS, build_positions
from cupola.models.matching import MaskMatchInputs
from cupola.parallel import SINGLE, Group
from cupola.registry import MODELS

Config = Mapping[str, Any]

CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "loss_weight": 2.0}
MASK_LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 5.0}
DICE_LOSS: Config = {"type": "DiceLoss", "naive_dice": True, "eps": 1.0, "loss_weight": 5.0}
ASSIGNER: Config = {
    "type": "HungarianAssigner",
    "match_costs": [
        {"type": "ClassificationCost", "weight": 2.0},
        {"type": "CrossEntropyLossCost", "weight": 5.0},
        {"type": "DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
    ],
}


@MODELS.register_module()
class Mask2FormerHead(nn.Module):
    """maps of the backbone -> MaskOutput with L + 1 entries, the first before any layer.

    Decoder layer i attends to level i mod `num_transformer_feat_level`, coarsest first, within the
    mask that was predicted before it. Losses and matching use random points.
    Source: mmdet/models/dense_heads/mask2former_head.py; paper (arXiv 2112.01527), section 3.
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
        num_transformer_feat_level: int = 3,
        enforce_decoder_input_project: bool = False,
        positional_encoding: Config = POSITIONS,
        loss_cls: Config = CLASS_LOSS,
        loss_mask: Config = MASK_LOSS,
        loss_dice: Config = DICE_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
        strides: Sequence[int] = (4, 8, 16, 32),
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
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
        nested = "transformerlayers" in settings  # MMDetection 2.x, whose first attention is cross
        self.transformer_decoder = (
            NestedDecoder(**settings) if nested else Mask2FormerTransformerDecoder(**settings)
        )
        first = self.transformer_decoder.layers[0]
        self.num_heads: int = (first.attentions[0] if nested else first.cross_attn).num_heads
        width = self.transformer_decoder.embed_dims
        projected = width != feat_channels or enforce_decoder_input_project
        self.decoder_input_projs = nn.ModuleList(
            nn.Conv2d(feat_channels, width, 1) if projected else nn.Identity()
            for _ in range(num_transformer_feat_level)
        )
        self.decoder_positional_encoding = build_positions(positional_encoding)
        self.query_embed = nn.Embedding(num_queries, feat_channels)
        self.query_feat = nn.Embedding(num_queries, feat_channels)
        self.level_embed = nn.Embedding(num_transformer_feat_level, feat_channels)
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = mask_embedding(feat_channels, out_channels)
        sampling = train_cfg or {}
        self.num_points: int = sampling.get("num_points", 12544)
        self.oversample: float = sampling.get("oversample_ratio", 3.0)
        self.importance: float = sampling.get("importance_sample_ratio", 0.75)
        assigner = sampling.get("assigner", ASSIGNER)
        self.criterion = MaskCriterion(self.num_classes, loss_cls, loss_mask, loss_dice, assigner)
        self._initialize()

    def _initialize(self) -> None:
        for projection in self.decoder_input_projs:
            if isinstance(projection, nn.Conv2d):
                caffe2_xavier(projection)
        for parameter in self.transformer_decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def forward(
        self, maps: Sequence[Tensor], padding_mask: Tensor | None = None, last_only: bool = False
    ) -> MaskOutput:
        """maps [B, C_i, h_i, w_i] -> the output before and after every decoder layer.

        The padding mask is not used, as in the original. With `last_only` L = 1.
        """
        features, memories = self.pixel_decoder(maps)
        inputs, positions, shapes = [], [], []
        for i, projection in enumerate(self.decoder_input_projs):
            memory = projection(memories[i])
            pos = map_positions(self.decoder_positional_encoding, memory, None)
            inputs.append(memory.flatten(2).transpose(1, 2) + self.level_embed.weight[i])
            positions.append(pos.flatten(2).transpose(1, 2))  # [B, hw, C]
            shapes.append(memories[i].shape[-2:])
        B = len(features)
        queries = self.query_feat.weight[None].expand(B, -1, -1)  # [B, Q, C]
        query_pos = self.query_embed.weight[None].expand(B, -1, -1)
        outputs = [self._predict(queries, features)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(inputs)
            queries = layer(
                queries,
                inputs[level],
                inputs[level],
                query_pos=query_pos,
                key_pos=positions[level],
                attn_mask=self.attention_mask(outputs[-1][1], shapes[level]),
            )
            outputs.append(self._predict(queries, features))
        logits, masks = zip(*(outputs[-1:] if last_only else outputs), strict=True)
        return MaskOutput(torch.stack(logits), torch.stack(masks))

    def _predict(self, queries: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """queries [B, Q, C], features [B, C, h, w] -> logits [B, Q, C + 1], masks [B, Q, h, w]."""
        queries = self.transformer_decoder.post_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(queries), features)
        return self.cls_embed(queries), masks

    @torch.no_grad()
    def attention_mask(self, masks: Tensor, shape: tuple[int, int]) -> Tensor:
        """Mask logits [B, Q, h, w] -> where queries do not attend in a level, [B * heads, Q, K].

        A query whose mask is empty attends everywhere.
        """
        resized = F.interpolate(masks, size=tuple(shape), mode="bilinear")
        outside = resized.flatten(2).sigmoid() < 0.5  # [B, Q, K]
        outside = outside & ~outside.all(-1, keepdim=True)
        return outside[:, None].expand(-1, self.num_heads, -1, -1).flatten(0, 1)

    def loss(
        self, output: MaskOutput, targets: Sequence[Mapping[str, Tensor]], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Losses of every layer; `targets` hold labels [N] and masks [N, h, w], size is (H, W)."""
        segments = segments_of(targets, size)
        return self.criterion(output, segments, self.match, self.mask_loss, self.data_group)

    @torch.no_grad()
    def match(self, masks: Tensor, logits: Tensor, segments: Sequence[Segments]) -> list[Tensor]:
        """The segment of every query, -1 for none, by masks at the same random points."""
        matches = []
        for each, scores, image in zip(masks, logits, segments, strict=True):
            points = torch.rand(1, self.num_points, 2, dtype=masks.dtype, device=masks.device)
            matches.append(
                MaskMatchInputs(
                    logits=scores,
                    boxes=scores[:, :0],
                    target_labels=image.labels,
                    target_boxes=scores[:0, :0],
                    masks=point_sample(each, points.expand(len(each), -1, -1)),
                    target_masks=point_sample(
                        image.masks.to(points), points.expand(len(image.masks), -1, -1)
                    ),
                )
            )
        found: list[Tensor] = self.criterion.assigner.assign(matches)
        return found

    def mask_loss(self, masks: Tensor, wanted: Tensor, count: float) -> tuple[Tensor, Tensor]:
        """Losses of masks [M, h, w] and targets [M, H, W] at mostly uncertain points."""
        points = uncertain_points(masks, self.num_points, self.oversample, self.importance)
        with torch.no_grad():
            targets = point_sample(wanted.to(points), points)  # [M, P]
        logits = point_sample(masks, points)
        loss_dice = self.criterion.loss_dice(logits, targets, avg_factor=count)
        loss_mask = self.criterion.loss_mask(
            logits.flatten(), targets.flatten(), avg_factor=count * self.num_points
        )
        return loss_mask, loss_dice
