"""ATSSVLFusionHead: ATSS whose class scores are similarities of cells with tokens.

Letters: B images, S anchors of all levels, T tokens, N names, P positive anchors.
Source: mmdet/models/dense_heads/atss_vlfusion_head.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.bert import BertSettings, TextFeatures
from cupola.models.boxes.distances import centerness, centers, distances
from cupola.models.dense import AnchorHead, Candidates, best_of_levels, level_rows, suppress
from cupola.models.dense.anchor_head import Factors, Sizes, joined_levels
from cupola.models.dense.targets import AnchorTargets, Targets, anchor_targets
from cupola.models.glip.fusion import FusedOutput, VLFusionModule
from cupola.models.grounding.prompts import EncodedPrompt, class_scores
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


@MODELS.register_module()
class ATSSVLFusionHead(AnchorHead):
    """Feature maps and a text -> FusedOutput, losses, detections.

    `lang_model_name` is the language model whose sizes the layers for the text have;
    `lang_model_config` holds other ones. Settings of ATSSHead's convolutions have no effect.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        early_fuse: bool = False,
        use_checkpoint: bool = False,
        num_dyhead_blocks: int = 6,
        lang_model_name: str = "bert-base-uncased",
        lang_model_config: Config | None = None,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        reg_decoded_bbox: bool = True,
        loss_centerness: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            reg_decoded_bbox=reg_decoded_bbox,
            init_cfg=init_cfg,
            **options,
        )
        if not self.use_sigmoid:
            raise ValueError("the class loss of an ATSSVLFusionHead needs use_sigmoid=True")
        if set(self.anchors.counts) != {1}:
            raise ValueError("an ATSSVLFusionHead has one anchor a cell: one scale and one ratio")
        self.loss_centerness = MODELS.build(
            loss_centerness or {"type": "CrossEntropyLoss", "use_sigmoid": True}
        )
        language = BertSettings.of(lang_model_name, lang_model_config)
        self.head = VLFusionModule(
            in_channels, self.feat_channels, early_fuse, num_dyhead_blocks, language
        )

    def forward(self, maps: Sequence[Tensor], text: TextFeatures) -> FusedOutput:  # type: ignore[override]
        """Feature maps [B, in_channels, h_i, w_i], and a text -> FusedOutput."""
        output: FusedOutput = self.head(maps, text)
        return output

    def search(
        self,
        output: FusedOutput,
        prompts: Sequence[EncodedPrompt],
        sizes: Sizes,
        scale_factors: Factors,
    ) -> list[Detections]:
        """Detections of every image; labels count the names of its prompt."""
        anchors = self.anchors(output.boxes)
        scores = [each.float().sigmoid() for each in output.logits]
        rows = [level_rows(each, 4).float() for each in output.boxes]
        qualities = [level_rows(each, 1)[..., 0].float().sigmoid() for each in output.qualities]
        found = []
        images = zip(prompts, sizes, scale_factors, strict=True)
        for i, (prompt, size, factor) in enumerate(images):
            places, products, labels = best_of_levels(
                [class_scores(each[i], prompt.tokens) for each in scores],
                [each[i] for each in qualities],
                self.test_cfg,
            )
            boxes = [
                self.bbox_coder.decode(priors[where], level[i][where], size)
                for priors, level, where in zip(anchors, rows, places, strict=True)
            ]
            candidates = Candidates(torch.cat(boxes), products.sqrt(), labels)
            kept = suppress(candidates, self.test_cfg, factor)
            # the last pixel belongs to these boxes; theirs ends one further, in any scale
            ends = kept.boxes + kept.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
            found.append(replace(kept, boxes=ends))
        return found

    def loss(self, output: FusedOutput, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        """loss_cls over the text's tokens, loss_bbox (weighted by centerness), loss_centerness.

        Targets hold boxes [N, 4], xyxy in pixels, positive_map [N, T] and text_mask [T].
        """
        wanted = self.token_targets(output, targets)
        logits = torch.cat(output.logits, 1)  # [B, S, T]
        deltas, quality = joined_levels(output.boxes, 4), joined_levels(output.qualities, 1)[..., 0]
        count = self.average(wanted.average)
        goal = torch.zeros_like(logits)
        goal[wanted.positive] = wanted.labels
        words = torch.stack([each["text_mask"] for each in targets])[:, None].expand_as(logits)
        losses = {"loss_cls": self.loss_cls(logits[words], goal[words], avg_factor=count)}
        central = centerness(distances(centers(wanted.anchors), wanted.boxes))  # [P]
        weight = self.average(central.sum())
        if not len(central):
            nothing = {"loss_bbox": deltas.sum() * 0, "loss_centerness": quality.sum() * 0}
            return losses | nothing
        ends = wanted.anchors + wanted.anchors.new_tensor([0.0, 0.0, 1.0, 1.0])
        boxes = self.bbox_coder.decode(ends, deltas[wanted.positive])
        losses["loss_bbox"] = self.loss_bbox(boxes, wanted.boxes, weight=central, avg_factor=weight)
        losses["loss_centerness"] = self.loss_centerness(
            quality[wanted.positive], central, avg_factor=count
        )
        return losses

    def token_targets(self, output: FusedOutput, targets: Targets) -> AnchorTargets:
        """What the anchors should predict; labels are rows of positive_map [P, T].

        Anchors end one pixel earlier than in use, and all of them train, padding or not.
        """
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        anchors = torch.cat(self.anchors(output.boxes))
        anchors = anchors - anchors.new_tensor([0.0, 0.0, 1.0, 1.0])
        usable = [torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)] * len(targets)
        counts = [level.shape[-2:].numel() for level in output.boxes]
        named = [{**each, "labels": each["positive_map"]} for each in targets]
        return anchor_targets(anchors, usable, counts, named, self.assigner, self.sampler)
