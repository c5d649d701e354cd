"""Sparse4DHead: instances that look at each other, at the cameras, and at those of earlier frames.

Letters: L refinements, B streams, N cameras, Q instances, M kept ones, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.detr3d.aggregation import flatten_levels, level_shapes
from cupola.models.sparse4d.bank import Recalled
from cupola.models.sparse4d.frame import Frame, InstanceState, Sparse4DOutput
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import Detections3D

OPERATIONS = ("temp_gnn", "gnn", "norm", "deformable", "norm", "ffn", "norm", "refine")


@MODELS.register_module()
class Sparse4DHead(nn.Module):
    """The layers named by `operation_order`, one after the other.

    `gnn` and `temp_gnn` are attention among the instances and to the kept ones, `deformable` looks
    at the images, `refine` changes the boxes. After `num_single_frame_decoder` refinements the kept
    instances take the places of the weakest. With `decouple_attn` features and positions are joined
    and not added. Sources: Sparse4D v3 (arXiv 2311.11722); sparse4d_head.py.
    """

    def __init__(
        self,
        instance_bank: Mapping[str, Any],
        anchor_encoder: Mapping[str, Any],
        graph_model: Mapping[str, Any],
        norm_layer: Mapping[str, Any],
        ffn: Mapping[str, Any],
        deformable_model: Mapping[str, Any],
        refine_layer: Mapping[str, Any],
        num_decoder: int = 6,
        num_single_frame_decoder: int = -1,
        temp_graph_model: Mapping[str, Any] | None = None,
        loss_cls: Mapping[str, Any] | None = None,
        loss_reg: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None,
        reg_weights: Sequence[float] | None = None,
        operation_order: Sequence[str] | None = None,
        cls_threshold_to_reg: float = -1,
        dn_loss_weight: float = 5.0,
        decouple_attn: bool = True,
        gt_cls_key: Any = None,
        gt_reg_key: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_single_frame_decoder = num_single_frame_decoder
        self.decouple_attn = decouple_attn
        self.operation_order = tuple(operation_order or (OPERATIONS * num_decoder)[3:])
        self.instance_bank = MODELS.build(instance_bank)
        self.anchor_encoder = MODELS.build(anchor_encoder)
        self.decoder = TASK_UTILS.build(decoder or {"type": "SparseBox3DDecoder"})
        configs = {
            "temp_gnn": temp_graph_model,
            "gnn": graph_model,
            "norm": norm_layer,
            "ffn": ffn,
            "deformable": deformable_model,
            "refine": refine_layer,
        }
        unknown = sorted(set(self.operation_order) - configs.keys())
        if unknown or self.operation_order[-1] != "refine":
            raise BuildError(
                f"Sparse4DHead: operation_order should hold {', '.join(configs)} and end with "
                f"refine, got {', '.join(self.operation_order)}"
            )
        self.num_heads: int = graph_model["num_heads"]
        self.layers = nn.ModuleList(
            [self._layer(configs[operation]) for operation in self.operation_order]
        )
        C = self.embed_dims = self.instance_bank.embed_dims
        self.fc_before = nn.Linear(C, C * 2, bias=False) if decouple_attn else nn.Identity()
        self.fc_after = nn.Linear(C * 2, C, bias=False) if decouple_attn else nn.Identity()

    @staticmethod
    def _layer(cfg: Mapping[str, Any] | None) -> nn.Module:
        return nn.Identity() if cfg is None else MODELS.build(cfg)

    def init_weights(self) -> None:
        """Xavier initialization of all layers but the refinements, then that of the parts."""
        for operation, layer in zip(self.operation_order, self.layers, strict=True):
            if operation != "refine":
                for parameter in layer.parameters():
                    if parameter.dim() > 1 and parameter.requires_grad:
                        nn.init.xavier_uniform_(parameter)
            if operation in ("deformable", "refine"):
                layer.init_weights()
        self.instance_bank.init_weights()

    def initial_state(self, batch: int = 1) -> InstanceState:
        """The state before the first frame of `batch` streams."""
        state: InstanceState = self.instance_bank.initial_state(batch)
        return state

    def forward(
        self, levels: Sequence[Tensor], frame: Frame, state: InstanceState
    ) -> tuple[Sparse4DOutput, InstanceState]:
        """Maps [B, N, C, h_l, w_l] and the state -> output and next state."""
        bank, kept = self.instance_bank, self.instance_bank.kept
        cells, shapes = flatten_levels(levels), level_shapes(levels)
        past = bank.recall(state, frame)
        feature, anchor = bank.start(len(state.exists))
        position, past_position = self.anchor_encoder(anchor), self.anchor_encoder(past.anchor)
        boxes: list[Tensor] = []
        classes: list[Tensor] = []
        qualities: list[Tensor] = []
        last = len(self.layers) - 1
        for number, (operation, layer) in enumerate(
            zip(self.operation_order, self.layers, strict=True)
        ):
            if operation == "temp_gnn":
                feature = self._look_back(layer, feature, position, past, past_position)
            elif operation == "gnn":
                own = self._joined(feature, position)
                feature = self._attend(
                    layer, feature, position, own, self.fc_before(feature), position
                )
            elif operation == "deformable":
                feature = layer(feature, anchor, position, cells, shapes, frame)
            elif operation != "refine":
                feature = layer(feature)
            else:
                single = len(boxes) + 1 == self.num_single_frame_decoder
                classify = self.training or single or number == last
                anchor, logits, quality = layer(feature, anchor, position, past.seconds, classify)
                boxes.append(anchor)
                classes += [logits] if classify else []
                qualities += [quality] if quality is not None else []
                if single and kept:
                    feature, anchor = bank.merge(past, feature, anchor, logits)
                position = self.anchor_encoder(anchor) if number != last else position
                if len(boxes) > self.num_single_frame_decoder:
                    past_position = position[:, :kept]
        threshold = self.decoder.score_threshold
        state, tracks = bank.keep(past, frame, feature, anchor, classes[-1], threshold)
        quality = torch.stack(qualities) if qualities else None
        return Sparse4DOutput(torch.stack(classes), torch.stack(boxes), quality, tracks), state

    def _joined(self, feature: Tensor, position: Tensor) -> Tensor:
        return torch.cat((feature, position), -1) if self.decouple_attn else feature

    def _attend(
        self,
        layer: nn.Module,
        feature: Tensor,
        position: Tensor,
        key: Tensor,
        value: Tensor,
        key_position: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """feature and position [B, Q, C], key and value [B, K, C or 2 C] -> [B, Q, C]."""
        own = {} if self.decouple_attn else {"query_pos": position, "key_pos": key_position}
        query = self._joined(feature, position)
        found: Tensor = self.fc_after(layer(query, key, value, attn_mask=mask, **own))
        return found

    def _look_back(
        self,
        layer: nn.Module,
        feature: Tensor,
        position: Tensor,
        past: Recalled,
        past_position: Tensor,
    ) -> Tensor:
        """Attention to the kept instances; to themselves in the first frame of a stream.

        As in the original, the values are then the queries as they are, without fc_before.
        """
        if isinstance(layer, nn.Identity):
            return feature
        own = self._joined(feature, position)
        key, value = self._joined(past.feature, past_position), self.fc_before(past.feature)
        if not (torch.compiler.is_exporting() or torch.compiler.is_compiling()):
            if not past.exists.any():
                return self._attend(layer, feature, position, own, own, position)
            if past.exists.all():
                return self._attend(layer, feature, position, key, value, past_position)
        spare = own.shape[1] - key.shape[1]  # so that both kinds of streams have Q keys
        exists = past.exists[:, None, None]
        keys, values, positions = (
            torch.where(exists, F.pad(there, (0, 0, 0, spare)), here)
            for there, here in ((key, own), (value, own), (past_position, position))
        )
        padding = torch.arange(own.shape[1], device=own.device) >= key.shape[1]
        mask = (exists & padding).expand(-1, own.shape[1], -1)
        mask = mask.repeat_interleave(self.num_heads, 0)  # [B * heads, Q, Q]
        return self._attend(layer, feature, position, keys, values, positions, mask)

    def predict(self, output: Sparse4DOutput) -> list[Detections3D]:
        """Detections of every stream, from the last refinement."""
        return [
            self.decoder.decode(
                output.logits[-1, b],
                output.boxes[-1, b],
                None if output.quality is None else output.quality[-1, b],
                None if output.tracks is None else output.tracks[b],
            )
            for b in range(output.logits.shape[1])
        ]
