"""GroundingDINOHead: boxes, and for classes the similarity of queries with tokens.

Letters: L decoder layers, B images, Q queries, T tokens, W logits of a query, C channels,
N objects of an image, M denoising queries.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr.set_head import BOX_COSTS, DETROutput, Sizes, Targets
from cupola.models.dino import DINOHead
from cupola.models.dino.denoising import Denoising
from cupola.models.grounding.prompts import EncodedPrompt, class_scores
from cupola.models.layers import refine_boxes
from cupola.models.losses import FocalLoss
from cupola.models.matching import TextMatchInputs, match_inputs
from cupola.models.set_prediction import QueryTargets, query_targets, targets_by_layer
from cupola.parallel import SINGLE, mean_over_ranks
from cupola.registry import MODELS
from cupola.structures import Detections
from cupola.structures.boxes import cxcywh_to_xyxy
from cupola.structures.boxes import scale as scale_boxes

Config = Mapping[str, Any]
LONGEST_TEXT = 4096  # tokens; published models read 256
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
ASSIGNER: Config = {
    "type": "HungarianAssigner",
    "match_costs": [{"type": "BinaryFocalLossCost", "weight": 2.0}, *BOX_COSTS],
}


class ContrastiveEmbed(nn.Module):
    """Queries times tokens. State keys log_scale and bias, where they are learned.

    `log_scale`: None or "none" for plain products, "auto" to divide them by sqrt(C), or a number
    whose learned exponential multiplies them. `bias` adds a learned one.
    """

    def __init__(
        self, max_text_len: int = 256, log_scale: str | float | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(log_scale, (int, float)) and log_scale not in ("auto", "none", None):
            raise ValueError(f"log_scale is 'auto', 'none', None or a number, got {log_scale!r}")
        if not 1 <= max_text_len <= LONGEST_TEXT:
            raise ValueError(f"max_text_len is 1 to {LONGEST_TEXT} tokens, got {max_text_len}")
        self.max_text_len = max_text_len
        self.auto = log_scale == "auto"
        learned = isinstance(log_scale, (int, float))
        self.log_scale = nn.Parameter(torch.tensor([float(log_scale)])) if learned else None  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.tensor([PRIOR_BIAS])) if bias else None

    def forward(self, queries: Tensor, text: Tensor, words: Tensor) -> Tensor:
        """queries [B, Q, C], text [B, T, C], words [B, T] -> [B, Q, W], -inf where no token is."""
        found = queries @ text.transpose(1, 2)
        if self.log_scale is not None:
            found = found * self.log_scale.exp()
        elif self.auto:
            found = found / math.sqrt(queries.shape[-1])
        if self.bias is not None:
            found = found + self.bias
        found = found.masked_fill(~words[:, None], -math.inf)
        return F.pad(found, (0, self.max_text_len - found.shape[-1]), value=-math.inf)


@dataclass(frozen=True)
class TextTargets(QueryTargets):
    """QueryTargets whose labels are objects of the image.

    tokens [..., Q, W]: the tokens of each query's object; words [B, W], True at tokens.
    """

    tokens: Tensor
    words: Tensor


@MODELS.register_module()
class GroundingDINOHead(DINOHead):
    """Source: mmdet/models/dense_heads/grounding_dino_head.py.

    Targets of its losses hold, besides boxes, positive_map [N, W] and text_mask [W].
    """

    def __init__(
        self,
        num_classes: int,
        contrastive_cfg: Config | None = None,
        train_cfg: Config | None = None,
        **settings: Any,
    ) -> None:
        self.contrastive_cfg = dict(contrastive_cfg or {})
        train_cfg = {"assigner": ASSIGNER, **(train_cfg or {})}
        super().__init__(num_classes, train_cfg=train_cfg, **settings)
        if not isinstance(self.loss_cls, FocalLoss):
            name = type(self.loss_cls).__name__
            raise ValueError(f"the class loss of a GroundingDINOHead is FocalLoss, got {name}")
        self.max_text_len = int(self.contrastive_cfg.get("max_text_len", 256))

    def class_branch(self) -> nn.Module:
        return ContrastiveEmbed(**self.contrastive_cfg)

    def forward(  # type: ignore[override]
        self,
        states: Tensor,
        references: Sequence[Tensor],
        text: Tensor,
        words: Tensor,
        last_only: bool = False,
    ) -> DETROutput:
        """states [L, B, Q, C], references of each layer, text [B, T, C] -> DETROutput [..., W]."""
        logits, boxes = [], []
        layers = list(enumerate(zip(states, references, strict=True)))[-1 if last_only else 0 :]
        for index, (state, reference) in layers:
            logits.append(self.cls_branches[index](state, text, words))
            boxes.append(refine_boxes(reference, self.reg_branches[index](state)))
        return DETROutput(torch.stack(logits), torch.stack(boxes))

    def search(
        self,
        output: DETROutput,
        prompts: Sequence[EncodedPrompt],
        sizes: Sizes,
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image from the last layer; labels count the names of its prompt."""
        logits, boxes = (each[-1] for each in output.at_least_float32())
        images = zip(logits, boxes, prompts, sizes, scale_factors, strict=True)
        return [self._detections(*each) for each in images]

    def _detections(
        self,
        logits: Tensor,
        boxes: Tensor,
        prompt: EncodedPrompt,
        size: tuple[int, int],
        scale_factor: Sequence[float] | None,
    ) -> Detections:
        scores = class_scores(logits.sigmoid(), prompt.tokens)  # [Q, N]
        count = min(int(self.test_cfg.get("max_per_img", len(logits))), scores.numel())
        best, index = scores.flatten().topk(count)
        queries, labels = index // scores.shape[1], index % scores.shape[1]
        corners = scale_boxes(cxcywh_to_xyxy(boxes[queries]), size)
        height, width = size
        limits = corners.new_tensor([width, height, width, height])
        corners = corners.clamp(min=0).minimum(limits)
        if scale_factor is not None:
            corners = corners / corners.new_tensor([*scale_factor[:2], *scale_factor[:2]])
        return Detections(corners, best, labels)

    def layer_targets(
        self, output: DETROutput, targets: Targets, sizes: Sizes
    ) -> list[QueryTargets]:
        """The targets of every layer's queries [B, Q], with their tokens."""
        _, boxes = self.normalized_targets(output, targets, sizes)
        objects = [torch.arange(len(each), device=each.device) for each in boxes]
        matches = [
            TextMatchInputs(
                match.logits,
                match.boxes,
                match.target_labels,
                match.target_boxes,
                match.image_size,
                positive_map=each["positive_map"],
                text_mask=each["text_mask"],
            )
            for match, each in zip(
                match_inputs(*output, objects, boxes, sizes), targets, strict=True
            )
        ]
        found = [
            query_targets(assigned, match.target_labels, match.target_boxes, self.num_classes)
            for assigned, match in zip(self.assigner.assign(matches), matches, strict=True)
        ]
        return [with_tokens(each, targets) for each in targets_by_layer(found)]

    def class_loss(self, logits: Tensor, targets: QueryTargets, quality: Tensor) -> Tensor:
        """The focal loss of the logits [B, Q, W] of tokens, over the number of positives."""
        assert isinstance(targets, TextTargets)
        words = targets.words[:, None].expand_as(logits)
        group = self.data_group if self.sync_cls_avg_factor else SINGLE
        count = max(float(mean_over_ranks(targets.positive.sum().float(), group)), 1.0)
        loss: Tensor = self.loss_cls(logits[words], targets.tokens[words], avg_factor=count)
        return loss

    def text_denoising_loss(
        self, output: DETROutput, denoising: Denoising, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """The losses of denoising queries, whose place in their group says which object's."""
        wanted = denoising.targets
        most = max(denoising.count // (2 * denoising.groups), 1)
        place = torch.arange(denoising.count, device=wanted.labels.device) % (2 * most)
        labels = torch.where(wanted.positive, place, self.num_classes)
        objects = QueryTargets(labels, wanted.positive, wanted.boxes)
        return self.denoising_loss(output, with_tokens(objects, targets), sizes)


def with_tokens(wanted: QueryTargets, targets: Targets) -> TextTargets:
    """Targets [B, Q] whose labels are objects of their image, with the objects' tokens."""
    maps = [each["positive_map"] for each in targets]
    tokens = maps[0].new_zeros(*wanted.labels.shape, maps[0].shape[-1])
    for row, found, positive, label in zip(
        tokens, maps, wanted.positive, wanted.labels, strict=True
    ):
        row[positive] = found[label[positive]]
    words = torch.stack([each["text_mask"] for each in targets])
    return TextTargets(wanted.labels, wanted.positive, wanted.boxes, tokens, words)
