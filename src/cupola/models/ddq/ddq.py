"""DDQ DETR, the detector: DINO with distinct queries, and dense ones beside them in training.

Letters: B images, S cells of all levels, Q queries, P dense queries, N queries of all kinds,
C channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.ddq.decoder import DDQTransformerDecoder, DistinctDecoded, Parts
from cupola.models.ddq.distinct import DistinctSelection
from cupola.models.deformable_detr.queries import Proposals, proposal_features
from cupola.models.detr.set_head import DETROutput
from cupola.models.dino.denoising import Denoising
from cupola.models.dino.dino import DINO
from cupola.models.layers import FeatureLevels
from cupola.registry import MODELS
from cupola.structures import Detections

NMS: Mapping[str, Any] = {"type": "nms", "iou_threshold": 0.8}


@MODELS.register_module()
class DDQDETR(DINO):
    """DDQ DETR from configs of MMDetection 3.x.

    Contents of queries are features of the chosen cells. In training `dense_topk_ratio` times as
    many dense queries, which no suppression thins out, have branches and losses of their own.
    Source: mmdet/models/detectors/ddq_detr.py.
    """

    decoder_class: ClassVar[type[Any]] = DDQTransformerDecoder
    fixed_axes: ClassVar[tuple[str, ...]] = ("batch", "height", "width")  # of exported graphs

    def __init__(
        self,
        *,
        dense_topk_ratio: float = 1.5,
        dqs_cfg: Mapping[str, Any] = NMS,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.dense_topk_ratio = dense_topk_ratio
        self.selection = DistinctSelection.from_config(dqs_cfg)

    def build_queries(self) -> None:
        """The parameters that queries are made from."""
        self.build_proposals()
        self.query_map = nn.Linear(self.embed_dims, self.embed_dims)

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, last_only: bool = False
    ) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W] -> all Q queries, distinct or not."""
        return self.answer(pixels, padding_mask, last_only)[0]

    def answer(
        self, pixels: Tensor, padding_mask: Tensor | None, last_only: bool = False
    ) -> tuple[DETROutput, Tensor]:
        """All queries, and which ones of the last layer are distinct [B, Q]."""
        levels = self.levels(self.maps(pixels), padding_mask)
        memory = self.encoder(levels)
        decoded, _, _ = self.decode_queries(memory, levels, None, dense=False)
        found = self.bbox_head(decoded.states, decoded.references, last_only=last_only)
        return found, decoded.distinct[-1]

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, from the distinct queries of the last layer."""
        output, distinct = self.answer(batch["pixels"], batch.get("padding_mask"), True)
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        found = []
        for i, chosen in enumerate(distinct):
            one = DETROutput(*(each[:, i : i + 1, chosen] for each in output))
            found += self.bbox_head.predict(one, sizes[i : i + 1], factors[i : i + 1])
        return found

    def decode_queries(
        self, memory: Tensor, levels: FeatureLevels, denoising: Denoising | None, dense: bool
    ) -> tuple[DistinctDecoded, Proposals, Proposals | None]:
        """The states of N = M + Q + P queries, the Q chosen proposals, and the P dense ones."""
        features, anchors = proposal_features(
            memory, levels, self.memory_trans_fc, self.memory_trans_norm
        )
        head, layer, Q = self.bbox_head, self.decoder.num_layers, self.num_queries
        proposals = Proposals(
            head.cls_branches[layer](features), head.reg_branches[layer](features) + anchors
        )
        mapped = self.query_map(memory.detach())
        chosen, content = self.distinct_proposals(proposals, mapped)
        many: Proposals | None = None
        if dense:
            many = Proposals(
                head.cls_branches[-1](features), head.reg_branches[-1](features) + anchors
            )
            order = many.logits.max(-1).values.sigmoid().sort(dim=1, descending=True).indices
            best = order[:, : int(Q * self.dense_topk_ratio)]
            many = many.take(best)
            index = best[..., None].expand(-1, -1, mapped.shape[-1])
            content = torch.cat((content, mapped.gather(1, index)), 1)
        boxes = chosen.boxes if many is None else torch.cat((chosen.boxes, many.boxes), 1)
        boxes = boxes.detach()
        parts = Parts(denoising.count if denoising else 0, Q, boxes.shape[1] - Q)
        if denoising is not None:
            content = torch.cat((denoising.content, content), 1)
            boxes = torch.cat((denoising.boxes, boxes), 1)
        mask = attention_mask(denoising, parts, content.device)
        decoded = self.decoder(
            content, boxes.sigmoid(), memory, levels, head, self.selection, parts, mask
        )
        return decoded, chosen, many

    def distinct_proposals(self, proposals: Proposals, mapped: Tensor) -> tuple[Proposals, Tensor]:
        """The distinct proposals [B, Q], best first, and their features [B, Q, C].

        proposals and mapped [B, S, C] are of all cells. Where fewer are distinct, zeros follow.
        """
        Q = self.num_queries
        rows = []
        for image, logits in enumerate(proposals.logits):
            boxes = proposals.boxes[image]
            scores = logits.max(-1).values.sigmoid()
            parts = (logits, boxes, mapped[image])
            if torch.compiler.is_exporting():
                index, found = self.selection.best(boxes.sigmoid(), scores, Q)
                rows.append([each[index].masked_fill(~found[:, None], 0.0) for each in parts])
                continue
            keep = self.selection.keep(boxes.detach().sigmoid(), scores.detach(), Q)
            rows.append([F.pad(each[keep], (0, 0, 0, Q - len(keep))) for each in parts])
        logits, boxes, content = (torch.stack(each) for each in zip(*rows, strict=True))
        return Proposals(logits, boxes), content

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, image_sizes, targets (boxes xyxy in pixels).

        Denoising and dense queries and their losses are part of it in training mode only.
        """
        targets, sizes, head = batch["targets"], batch["image_sizes"], self.bbox_head
        levels = self.levels(self.maps(batch["pixels"]), batch.get("padding_mask"))
        memory = self.encoder(levels)
        denoising = self.dn_query_generator(targets, sizes) if self.training else None
        decoded, chosen, many = self.decode_queries(memory, levels, denoising, self.training)
        dense = 0 if many is None else many.logits.shape[1]
        output = head(decoded.states, decoded.references, dense)
        M, Q = denoising.count if denoising else 0, self.num_queries
        own = DETROutput(*(each[:, :, M : M + Q] for each in output))
        losses: dict[str, Tensor] = head.distinct_loss(own, decoded.distinct, targets, sizes)
        losses |= head.encoder_loss(chosen, targets, sizes)
        if denoising is not None and many is not None:
            noisy = DETROutput(*(each[:, :, :M] for each in output))
            others = DETROutput(*(each[:, :, M + Q :] for each in output))
            losses |= head.denoising_loss(noisy, denoising.targets, sizes)
            losses |= head.dense_losses(others, targets, sizes)
            losses |= head.dense_proposal_loss(many, targets, sizes)
        return losses


def attention_mask(denoising: Denoising | None, parts: Parts, device: torch.device) -> Tensor:
    """[N, N], True = must not see: dense queries see, and are seen by, dense queries only."""
    N, others = sum(parts), parts.noisy + parts.distinct
    mask = torch.ones(N, N, dtype=torch.bool, device=device)
    mask[others:, others:] = False
    mask[:others, :others] = False if denoising is None else denoising.mask(parts.distinct)
    return mask
