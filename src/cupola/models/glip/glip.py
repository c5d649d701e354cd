"""GLIP, the detector.

Letters: B images, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.models.bert import Tokens
from cupola.models.dense import SingleStageDetector
from cupola.models.glip.fusion import FusedOutput
from cupola.models.grounding.search import Round, TextSearch, with_tokens_of_names
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


@MODELS.register_module()
class GLIP(SingleStageDetector):
    """GLIP from configs of MMDetection 3.x.

    Batches hold "texts", one for each image; see models/grounding/prompts.py for what a text is.
    `test_cfg` may set `chunked_size`, the number of names that are searched for at a time.
    Source: mmdet/models/detectors/glip.py.
    """

    engine_method = "maps"  # what follows depends on the length of the text

    def __init__(
        self, backbone: Config, bbox_head: Config, language_model: Config, **settings: Any
    ) -> None:
        super().__init__(backbone, bbox_head, **settings)
        self.language_model = MODELS.build(language_model)
        chunk = int((settings.get("test_cfg") or {}).get("chunked_size", -1))
        self.text_search = TextSearch(self.language_model, ends=False, chunk=chunk)

    def example_tokens(self) -> Tokens:
        """A short text, for `cupola explain`."""
        return self.text_search.example()

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, tokens: Tokens | None = None
    ) -> FusedOutput:
        """pixels [B, 3, H, W], and a text -> FusedOutput. Padding is zeros like other pixels."""
        if tokens is None:
            raise InputError(f"{type(self).__name__} needs the tokens of a text besides images")
        return self.answer(self.maps(pixels), tokens)

    def answer(self, maps: tuple[Tensor, ...], tokens: Tokens) -> FusedOutput:
        """Feature maps and the tokens of a text for each image -> FusedOutput."""
        text = self.language_model(tokens.to(maps[0].device))
        output: FusedOutput = self.bbox_head(maps, text)
        return output

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image; labels are indices of the names of its text, as `names` says."""
        maps, sizes = self.maps(batch["pixels"]), batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)

        def find(part: Round) -> list[Detections]:
            chosen = part.images
            output = self.answer(tuple(level[chosen] for level in maps), part.tokens)
            found: list[Detections] = self.bbox_head.search(
                output, part.prompts, [sizes[i] for i in chosen], [factors[i] for i in chosen]
            )
            return found

        return self.text_search.predict(batch, find)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, texts, targets (boxes xyxy in pixels, labels).

        Labels are indices of the text's names.
        """
        prompts = self.text_search.whole_prompts(batch)
        tokens = self.text_search.tokens(prompts)
        maps = self.maps(batch["pixels"])
        mask = tokens.mask.to(maps[0].device)
        targets = with_tokens_of_names(batch["targets"], prompts, mask, mask.shape[1])
        losses: dict[str, Tensor] = self.bbox_head.loss(self.answer(maps, tokens), targets)
        return losses
