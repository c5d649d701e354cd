"""DetectionTransformerDecoder: objects read the bird's-eye view and move their references.

Letters: L layers, B samples, Q queries, K cells, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.detr3d.decoder import DecoderOutput, run_refining
from cupola.models.layers import TransformerLayerSequence
from cupola.registry import MODELS


@MODELS.register_module()
class DetectionTransformerDecoder(TransformerLayerSequence):
    """Layers without a final norm; the head reuses the regressions used for refinement.

    Source: decoder.py of BEVFormer.
    """

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
        bev: Tensor,
        size: tuple[int, int],
        reg_branches: Sequence[nn.Module] | None,
    ) -> DecoderOutput:
        """query and query_pos [Q, B, C], references [B, Q, 3], bev [K, B, C] -> DecoderOutput."""

        def run(layer: nn.Module, query: Tensor, references: Tensor) -> Tensor:
            found: Tensor = layer(
                query,
                None,
                bev,
                query_pos=query_pos,
                reference_points=references[..., None, :2].to(query.dtype),
                spatial_shapes=[size],
            )
            return found

        return run_refining(self.layers, run, query, references, reg_branches)
