"""Bipartite matching between predictions and ground truth."""

from cupola.models.matching.costs import (
    BBoxL1Cost,
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    FocalLossCost,
    IoUCost,
    MaskMatchInputs,
    MatchInputs,
    match_inputs,
)
from cupola.models.matching.hungarian import HungarianAssigner, solve_assignments
from cupola.models.matching.text_cost import BinaryFocalLossCost, TextMatchInputs

__all__ = [
    "BBoxL1Cost",
    "BinaryFocalLossCost",
    "ClassificationCost",
    "CrossEntropyLossCost",
    "DiceCost",
    "FocalLossCost",
    "HungarianAssigner",
    "IoUCost",
    "MaskMatchInputs",
    "MatchInputs",
    "TextMatchInputs",
    "match_inputs",
    "solve_assignments",
]
