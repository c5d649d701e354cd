"""DDQDETRHead: DINO's head with branches for dense queries, and losses of distinct queries only.

Letters: D decoder layers, B images, Q distinct queries, N queries of all kinds, C channels,
K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.ddq.auxiliary import AuxiliaryLoss
from cupola.models.deformable_detr.queries import Proposals
from cupola.models.detr.set_head import DETROutput, Sizes, Targets
from cupola.models.dino.dino import DINOHead
from cupola.models.layers import refine_boxes
from cupola.models.matching import match_inputs
from cupola.models.set_prediction import QueryTargets, name_by_layer
from cupola.registry import MODELS


@MODELS.register_module()
class DDQDETRHead(DINOHead):
    """`aux_num_pos` dense queries learn from every object.

    The last of `cls_branches` and `reg_branches` make dense proposals, aux_cls_branches and
    aux_reg_branches belong to the dense queries of each layer; all three are for training only.
    Source: mmdet/models/dense_heads/ddq_detr_head.py.
    """

    def __init__(self, *args: Any, aux_num_pos: int = 4, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.auxiliary_loss = AuxiliaryLoss(aux_num_pos)

    def build_branches(self, count: int) -> None:
        """`count` as in DINO, one more for dense proposals, and those of dense queries."""
        super().build_branches(count + 1)
        self.aux_cls_branches = nn.ModuleList(self.class_branch() for _ in range(count - 1))
        self.aux_reg_branches = nn.ModuleList(self.box_branch() for _ in range(count - 1))

    def classify(self, layer: int, states: Tensor, dense: int) -> Tensor:
        """Logits [B, N, K] of states [B, N, C], the last `dense` by their own branch."""
        return _split_run(self.cls_branches[layer], self.aux_cls_branches[layer], states, dense)

    def regress(self, layer: int, states: Tensor, dense: int) -> Tensor:
        """Regressions [B, N, 4] of states [B, N, C], the last `dense` by their own branch."""
        return _split_run(self.reg_branches[layer], self.aux_reg_branches[layer], states, dense)

    def forward(  # type: ignore[override]  # it takes the number of dense queries
        self,
        states: Tensor,
        references: Sequence[Tensor],
        dense: int = 0,
        last_only: bool = False,
    ) -> DETROutput:
        """states [D, B, N, C], references of each layer [B, N, 4] -> DETROutput of N queries."""
        layers = list(enumerate(zip(states, references, strict=True)))[-1 if last_only else 0 :]
        logits = [self.classify(i, state, dense) for i, (state, _) in layers]
        boxes = [
            refine_boxes(reference, self.regress(i, state, dense))
            for i, (state, reference) in layers
        ]
        return DETROutput(torch.stack(logits), torch.stack(boxes))

    def distinct_loss(
        self, output: DETROutput, distinct: Tensor, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """The set loss of those queries of each layer that are distinct [D, B, Q] in it."""
        output = output.at_least_float32()
        return name_by_layer(
            [
                self._distinct_layer_loss(DETROutput(*layer), chosen, targets, sizes)
                for *layer, chosen in zip(*output, distinct, strict=True)
            ]
        )

    def _distinct_layer_loss(
        self, layer: DETROutput, distinct: Tensor, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """The loss of one layer [B, Q, ...], over the chosen queries of all images together."""
        logits, boxes, wanted, pixels = [], [], [], []
        for image, chosen in enumerate(distinct):
            one = DETROutput(layer.logits[image, chosen], layer.boxes[image, chosen])
            single = DETROutput(*(each[None, None] for each in one))
            wanted += self.assign(single, targets[image : image + 1], sizes[image : image + 1])
            pixels.append(self.pixel_scales(one.boxes[None], sizes[image : image + 1]))
            logits.append(one.logits)
            boxes.append(one.boxes)
        together = QueryTargets(
            *(
                torch.cat([getattr(each, name) for each in wanted], 1)
                for name in ("labels", "positive", "boxes")
            )
        )
        return self.set_losses(
            torch.cat(logits)[None], torch.cat(boxes)[None], together, torch.cat(pixels, 1)
        )

    def dense_losses(self, output: DETROutput, targets: Targets, sizes: Sizes) -> dict[str, Tensor]:
        """0_aux_aux_loss_cls and so on: the auxiliary loss of the dense queries of each layer."""
        losses: dict[str, Tensor] = {}
        for layer, (logits, boxes) in enumerate(zip(*output, strict=True)):
            found = self._auxiliary(logits, boxes, targets, sizes)
            losses |= {f"{layer}_aux_{name}": value for name, value in found.items()}
        return losses

    def dense_proposal_loss(
        self, proposals: Proposals, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """aux_enc_aux_loss_cls and aux_enc_aux_loss_bbox: that of the dense proposals."""
        found = self._auxiliary(proposals.logits, proposals.boxes.sigmoid(), targets, sizes)
        return {f"aux_enc_{name}": value for name, value in found.items()}

    def _auxiliary(
        self, logits: Tensor, boxes: Tensor, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        output = DETROutput(logits[None], boxes[None]).at_least_float32()
        labels, wanted = self.normalized_targets(output, targets, sizes)
        matches = match_inputs(output.logits[0][None], output.boxes[0][None], labels, wanted, sizes)
        return self.auxiliary_loss([match.layer(0) for match in matches], self.data_group)


def _split_run(own: nn.Module, dense_branch: nn.Module, states: Tensor, dense: int) -> Tensor:
    if not dense:
        result: Tensor = own(states)
        return result
    return torch.cat((own(states[:, :-dense]), dense_branch(states[:, -dense:])), 1)
