"""Grounding DINO, the detector.

Letters: B images, S cells of all levels, Q queries, T tokens, W logits of a query, C channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.bert import TextFeatures, Tokens
from cupola.models.deformable_detr.queries import Proposals, best_cells, proposal_features
from cupola.models.detr.set_head import DETROutput
from cupola.models.dino import DINO
from cupola.models.dino.denoising import Denoising
from cupola.models.dino.dino import split
from cupola.models.grounding.search import Round, TextSearch, with_tokens_of_names
from cupola.models.grounding_dino.decoder import GroundingDinoTransformerDecoder
from cupola.models.grounding_dino.encoder import GroundingDinoTransformerEncoder, Memory
from cupola.models.layers import FeatureLevels
from cupola.models.layers.deformable_transformer import Decoded
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


@MODELS.register_module()
class GroundingDINO(DINO):
    """Grounding DINO and MM-Grounding-DINO from configs of MMDetection 3.x.

    Batches hold "texts", one for each image; see models/grounding/prompts.py for what a text is.
    `test_cfg` may set `chunked_size`, the number of names that are searched for at a time.
    Source: mmdet/models/detectors/grounding_dino.py.
    """

    encoder_class: ClassVar[type[Any]] = GroundingDinoTransformerEncoder
    decoder_class: ClassVar[type[Any]] = GroundingDinoTransformerDecoder
    engine_method = "maps"  # what follows depends on the length of the text

    def __init__(self, *, language_model: Config, **settings: Any) -> None:
        self.language_model_cfg = language_model
        super().__init__(**settings)
        chunk = int((settings.get("test_cfg") or {}).get("chunked_size", -1))
        self.text_search = TextSearch(self.language_model, ends=True, chunk=chunk)
        widest = self.bbox_head.max_text_len
        if self.language_model.max_tokens > widest:
            raise ValueError(
                f"language_model.max_tokens is {self.language_model.max_tokens}, and max_text_len "
                f"of the head's contrastive_cfg only {widest}"
            )

    def build_queries(self) -> None:
        """The parameters that queries are made from, and the language model."""
        super().build_queries()
        self.language_model = MODELS.build(self.language_model_cfg)
        self.text_feat_map = nn.Linear(self.language_model.channels, self.embed_dims)
        nn.init.xavier_uniform_(self.text_feat_map.weight)
        nn.init.zeros_(self.text_feat_map.bias)

    def example_tokens(self) -> Tokens:
        """A short text, for `cupola explain`."""
        return self.text_search.example()

    def forward(  # type: ignore[override]  # it takes the tokens of a text
        self, pixels: Tensor, padding_mask: Tensor | None = None, tokens: Tokens | None = None
    ) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> logits [L, B, Q, W]."""
        if tokens is None:
            raise InputError(f"{type(self).__name__} needs the tokens of a text besides images")
        found, _ = self.answer(self.maps(pixels), padding_mask, self.read(tokens))
        return found

    def read(self, tokens: Tokens) -> TextFeatures:
        """Tokens [B, T] -> TextFeatures whose `embedded` [B, T, C] are of the detector's width."""
        text: TextFeatures = self.language_model(tokens.to(self.level_embed.device))
        return text._replace(embedded=self.text_feat_map(text.embedded))

    def answer(
        self,
        maps: tuple[Tensor, ...],
        padding_mask: Tensor | None,
        text: TextFeatures,
        denoising: Denoising | None = None,
        last_only: bool = False,
    ) -> tuple[DETROutput, Proposals]:
        """What the queries find, denoising queries first, and the proposals of the others."""
        levels = self.levels(maps, padding_mask)
        memory: Memory = self.encoder(levels, text)
        chosen = self.choose(memory, levels)
        decoded = self.decode_queries(memory, levels, chosen, denoising)
        return self.bbox_head(*decoded, memory.text, memory.words, last_only), chosen

    def choose(self, memory: Memory, levels: FeatureLevels) -> Proposals:
        """The cells [B, Q] that are most like any token."""
        head, layer = self.bbox_head, self.decoder.num_layers
        features, anchors = proposal_features(
            memory.image, levels, self.memory_trans_fc, self.memory_trans_norm
        )
        logits = head.cls_branches[layer](features, memory.text, memory.words)
        best = best_cells(logits.max(-1).values, self.num_queries)
        return Proposals(logits, head.reg_branches[layer](features) + anchors).take(best)

    def decode_queries(
        self,
        memory: Memory,
        levels: FeatureLevels,
        chosen: Proposals,
        denoising: Denoising | None = None,
    ) -> Decoded:
        """Learned contents at the chosen boxes -> the states of all layers."""
        content = self.query_embedding.weight[None].expand(len(memory.image), -1, -1)
        boxes, mask = chosen.boxes.detach(), None
        if denoising is not None:
            mask = denoising.mask(self.num_queries)
            content = torch.cat((denoising.content, content), 1)  # [B, M + Q, C]
            boxes = torch.cat((denoising.boxes, boxes), 1)
        decoded: Decoded = self.decoder(
            content,
            boxes.sigmoid(),
            memory.image,
            levels,
            self.bbox_head.reg_branches,
            mask,
            memory_text=memory.text,
            words=memory.words,
        )
        return decoded

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image; labels are indices of the names of its text, as `names` says."""
        maps, mask = self.maps(batch["pixels"]), batch.get("padding_mask")
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)

        def find(part: Round) -> list[Detections]:
            chosen = part.images
            output, _ = self.answer(
                tuple(level[chosen] for level in maps),
                None if mask is None else mask[chosen],
                self.read(part.tokens),
                last_only=True,
            )
            found: list[Detections] = self.bbox_head.search(
                output, part.prompts, [sizes[i] for i in chosen], [factors[i] for i in chosen]
            )
            return found

        return self.text_search.predict(batch, find)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, image_sizes, texts, targets.

        Targets hold boxes, xyxy in pixels, and labels, which are indices of the text's names.
        Denoising queries and their losses are part of it in training mode only.
        """
        sizes, head = batch["image_sizes"], self.bbox_head
        prompts = self.text_search.whole_prompts(batch)
        text = self.read(self.text_search.tokens(prompts))
        width = head.max_text_len
        targets = with_tokens_of_names(batch["targets"], prompts, text.mask, width)
        denoising = self.dn_query_generator(targets, sizes) if self.training else None
        maps, mask = self.maps(batch["pixels"]), batch.get("padding_mask")
        output, chosen = self.answer(maps, mask, text, denoising)
        noisy, output = split(output, denoising.count if denoising else 0)
        losses: dict[str, Tensor] = head.loss(output, targets, sizes)
        losses |= head.encoder_loss(chosen, targets, sizes)
        if denoising is not None and denoising.count:
            losses |= head.text_denoising_loss(noisy, denoising, targets, sizes)
        return losses
