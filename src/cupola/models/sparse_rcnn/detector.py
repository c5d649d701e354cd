"""Sparse R-CNN and QueryInst."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.models.rcnn import TwoStageDetector
from cupola.models.rcnn.masks import with_padded_masks
from cupola.models.sparse_rcnn.proposals import Queries
from cupola.registry import MODELS

Size = tuple[int, int]


@MODELS.register_module(["SparseRCNN", "QueryInst"])
class SparseRCNN(TwoStageDetector):
    """A TwoStageDetector whose proposals are learned; it needs no non-maximum suppression.

    QueryInst is one with mask heads. Source: mmdet/models/detectors/sparse_rcnn.py.
    """

    takes_views = False

    def proposals(  # type: ignore[override]
        self, maps: Sequence[Tensor], sizes: Sequence[Size], given: Any = None
    ) -> Queries:
        """The queries of every image; ValueError for proposals from elsewhere."""
        if given is not None or self.rpn_head is None:
            raise ValueError("Sparse R-CNN has proposals of its own; the batch brings none")
        queries: Queries = self.rpn_head.queries(self.rpn_head(maps), sizes)
        return queries

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels, masks)."""
        maps, sizes = self.maps(batch["pixels"]), ImageSizes.of(batch).content
        targets = with_padded_masks(batch["targets"], batch["pixels"])
        losses: dict[str, Tensor] = self.roi_head.loss(
            maps, self.proposals(maps, sizes), targets, sizes
        )
        return losses


QueryInst = SparseRCNN
