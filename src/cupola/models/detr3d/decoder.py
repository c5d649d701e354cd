"""The decoder: each layer samples the images and refines the reference points.

Letters: L layers, B samples, Q queries, C channels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.cross_attention import Detr3DCrossAtten
from cupola.models.detr3d.feature_sampling import Cameras, Pyramid
from cupola.models.detr3d.references import first_references, refine
from cupola.models.layers import TransformerLayerSequence
from cupola.registry import MODELS


@dataclass(frozen=True)
class DecoderOutput:
    """The output of the decoder.

    states: [L, B, Q, C]. references: [L, B, Q, 3], 0..1, from BEFORE each layer's refinement, and
    refined: [B, Q, 3] after the last layer, both float64 as first_references makes them.
    regressions: [L, B, Q, 10], or None if the reference points are not refined.
    """

    states: Tensor
    references: Tensor
    refined: Tensor
    regressions: Tensor | None


def run_refining(
    layers: Iterable[nn.Module],
    run: Callable[[nn.Module, Tensor, Tensor], Tensor],
    query: Tensor,
    references: Tensor,
    reg_branches: Sequence[nn.Module] | None,
) -> DecoderOutput:
    """`run(layer, query, references)` for each layer; between them the references are refined.

    query [Q, B, C], references [B, Q, 3]. Without regression branches the references stay.
    """
    states, before, regressions = [], [], []
    for index, layer in enumerate(layers):
        query = run(layer, query, references)
        states.append(query.transpose(0, 1))  # [B, Q, C]
        before.append(references)
        if reg_branches is not None:
            regressions.append(reg_branches[index](states[-1]))
            references = refine(references, regressions[-1]).detach()
    return DecoderOutput(
        torch.stack(states),
        torch.stack(before),
        references,
        torch.stack(regressions) if regressions else None,
    )


@MODELS.register_module()
class Detr3DTransformerDecoder(TransformerLayerSequence):
    """Layers without a final norm; the head reuses the regressions used for refinement."""

    def __init__(
        self,
        transformerlayers: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        num_layers: int,
        return_intermediate: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(transformerlayers, num_layers, init_cfg)
        self.return_intermediate = return_intermediate

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        references: Tensor,
        pyramid: Pyramid,
        cameras: Cameras,
        reg_branches: Sequence[nn.Module] | None,
    ) -> DecoderOutput:
        """query and query_pos [Q, B or 1, C], references [B, Q, 3] -> DecoderOutput."""

        def run(layer: nn.Module, query: Tensor, references: Tensor) -> Tensor:
            found: Tensor = layer(
                query,
                None,
                pyramid,
                query_pos=query_pos,
                reference_points=references.to(query.dtype),
                cameras=cameras,
            )
            return found

        return run_refining(self.layers, run, query, references, reg_branches)


@MODELS.register_module()
class Detr3DTransformer(nn.Module):
    """Computes queries and reference points from the query embedding, and runs the decoder."""

    def __init__(
        self,
        decoder: Mapping[str, Any],
        num_feature_levels: int = 4,
        num_cams: int = 6,
        two_stage_num_proposals: int = 300,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.decoder = MODELS.build(decoder)
        self.embed_dims: int = self.decoder.embed_dims
        self.num_feature_levels = num_feature_levels
        self.num_cams = num_cams
        self.reference_points = nn.Linear(self.embed_dims, 3)

    def init_weights(self) -> None:
        """Xavier initialization of all matrices, then that of the cross-attentions."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, Detr3DCrossAtten):
                module.init_weights()
        for parameter in self.reference_points.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)

    def forward(
        self,
        pyramid: Pyramid,
        query_embedding: Tensor,
        cameras: Cameras,
        reg_branches: Sequence[nn.Module] | None,
    ) -> DecoderOutput:
        """query_embedding [Q, 2 * C]: positions first, contents second."""
        position, query = query_embedding[:, None].chunk(2, dim=-1)  # [Q, 1, C]
        B = cameras.lidar2img.shape[0]
        references = first_references(self.reference_points, position).transpose(0, 1)  # [1, Q, 3]
        if self.training:
            # Before the first cross-attention, samples differ only by dropout.
            query = query.expand(-1, B, -1)
        references = references.expand(B, -1, -1)
        return self.decoder(query, position, references, pyramid, cameras, reg_branches)
