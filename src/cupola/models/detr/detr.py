"""DETR, the detector: backbone, neck, transformer, head."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr.detector import QueryDetector
from cupola.models.detr.inspection import inspect_detr
from cupola.models.detr.set_head import DETROutput
from cupola.models.detr.transformer import DetrTransformerDecoder, DetrTransformerEncoder
from cupola.models.layers import SinePositionalEncoding, feature_mask, map_positions
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class DETR(QueryDetector):
    """End-to-end detection from configs of MMDetection 3.x and 2.x.

    In 3.x encoder, decoder and queries belong to the detector; in 2.x the whole transformer is
    nested in `bbox_head`, and the detector only has a backbone and a head.

    Its relatives are subclasses with other encoders, decoders or queries.

    `training_groups` G > 1 trains G - 1 additional groups of queries with the same decoder, each
    matched separately, so that G queries learn from every object in a step (Group DETR, arXiv
    2207.13085). They are not used in eval mode.
    Source: mmdet/models/detectors/{detr,base_detr}.py.
    """

    encoder_class: ClassVar[type[Any]] = DetrTransformerEncoder
    decoder_class: ClassVar[type[Any]] = DetrTransformerDecoder
    nested_head: ClassVar[str | None] = "NestedDETRHead"  # the class of a 2.x bbox_head

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        neck: Config | None = None,
        encoder: Config | None = None,
        decoder: Config | None = None,
        positional_encoding: Config | None = None,
        num_queries: int = 100,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
        training_groups: int = 1,
    ) -> None:
        super().__init__(
            backbone,
            bbox_head,
            neck,
            train_cfg,
            test_cfg,
            data_preprocessor,
            pretrained,
            init_cfg,
        )
        self.training_groups = training_groups
        if not self.nested:
            self._build_transformer(encoder, decoder, positional_encoding, num_queries)

    def _build_transformer(
        self,
        encoder: Config | None,
        decoder: Config | None,
        positional_encoding: Config | None,
        num_queries: int,
    ) -> None:
        if encoder is None or decoder is None:
            raise ValueError(
                f"{type(self).__name__} needs `encoder` and `decoder` (MMDetection 3.x), or a "
                "`transformer` in its bbox_head (2.x)"
            )
        self.positional_encoding = SinePositionalEncoding(
            **(positional_encoding or {"num_feats": 128, "normalize": True})
        )
        self.encoder = self.encoder_class(**encoder)
        self.decoder = self.decoder_class(**decoder)
        self.query_embedding = nn.Embedding(num_queries, self.query_dims)
        if self.training_groups > 1:
            further = (self.training_groups - 1) * num_queries
            self.further_query_embedding = nn.Embedding(further, self.query_dims)
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    @property
    def query_dims(self) -> int:
        """The number of channels of a query's learned position."""
        return int(self.decoder.embed_dims)

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, last_only: bool = False
    ) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> DETROutput.

        `last_only`: of the last decoder layer alone, with L = 1.
        """
        features = self.extract(pixels)
        return self.detect(features, feature_mask(padding_mask, features), last_only)

    def detect(
        self, features: Tensor, padding: Tensor | None, last_only: bool = False
    ) -> DETROutput:
        """features [B, C, h, w], padding [B, h, w] -> DETROutput."""
        if self.nested:
            hidden = self.bbox_head.transform(features, padding)
        else:
            hidden = self.decode(*self.encode(features, padding), padding)
        return self.bbox_head(hidden[-1:] if last_only else hidden)

    def inspect(self, pixels: Tensor) -> dict[str, Tensor]:
        """Scores, boxes and attention of the last layer for one image; see inspect_detr."""
        return inspect_detr(self, pixels)

    def extract(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] -> the last feature map [B, C, h, w]."""
        return self.maps(pixels)[-1]

    def encode(self, features: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """features [B, C, h, w], padding [B, h, w] -> memory and positions, both [B, hw, C]."""
        pos = map_positions(self.positional_encoding, features, padding)
        cells = features.flatten(2).transpose(1, 2)  # [B, hw, C]
        pos = pos.flatten(2).transpose(1, 2)  # [B, hw, C]
        key_padding_mask = None if padding is None else padding.flatten(1)  # [B, hw]
        return self.encoder(cells, pos, key_padding_mask), pos

    def decode(self, memory: Tensor, memory_pos: Tensor, padding: Tensor | None) -> Tensor:
        """memory [B, hw, C] -> normed hidden states of every decoder layer [L, B, Q, C]."""
        queries, groups = self.queries(memory.shape[0])
        key_padding_mask = None if padding is None else padding.flatten(1)
        return self.decoder(queries, memory, memory_pos, key_padding_mask, groups)

    def queries(self, batch: int) -> tuple[Tensor, int]:
        """The queries' learned positions [B, G * Q, query_dims], and their number of groups G."""
        queries: Tensor = self.query_embedding.weight  # [Q, query_dims]
        groups = self.training_groups if self.training else 1
        if groups > 1:
            queries = torch.cat((queries, self.further_query_embedding.weight))
        return queries[None].expand(batch, -1, -1), groups

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, image_sizes, targets (boxes xyxy in pixels)."""
        output = self(batch["pixels"], batch.get("padding_mask"))
        targets, sizes = batch["targets"], batch["image_sizes"]
        if self.training and self.training_groups > 1:
            # each group counts as one more image: matched separately, averaged together
            L, B, _, _ = output.logits.shape
            apart = (L, B * self.training_groups, -1)
            logits = output.logits.reshape(*apart, output.logits.shape[-1])  # [L, B * G, Q, C + 1]
            output = DETROutput(logits, output.boxes.reshape(*apart, 4))
            targets = [target for target in targets for _ in range(self.training_groups)]
            sizes = [size for size in sizes for _ in range(self.training_groups)]
        return self.bbox_head.loss(output, targets, sizes)
