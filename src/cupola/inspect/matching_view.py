"""The matching of one image for the page: costs of each query and object, and who got whom."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.inspect.attention_view import to_corners

CHEAPEST = 5  # queries shown for each object, besides its own
NAMES = {
    "ClassificationCost": "class",
    "FocalLossCost": "class",
    "BBoxL1Cost": "L1 of the boxes",
    "IoUCost": "IoU of the boxes",
}
Truth = Mapping[str, Sequence[Any]]


def matching_view(
    head: Any,
    seen: Mapping[str, Tensor],
    truth: Truth,
    size: tuple[int, int],
    labels: Sequence[str],
) -> dict[str, Any]:
    """What the head's assigner makes of the predictions of every layer.

    logits [D, Q, C] and layer_boxes [D, Q, 4] in `seen`; truth has `boxes`, xyxy in pixels of an
    image of `size` (height, width), and `labels`. Per layer and object the assigned query, and the
    costs of it and of the five cheapest queries, one after the other as in `costs`. InputError for
    a label that is no class of the head.
    """
    if unknown := [kind for kind in truth["labels"] if not 0 <= kind < head.num_classes]:
        raise InputError(f"label {unknown[0]} of the truth is not in 0..{head.num_classes - 1}")
    from cupola.models.matching import match_inputs
    from cupola.structures import boxes as box_ops

    height, width = size
    boxes = torch.tensor(truth["boxes"], dtype=torch.float32).reshape(-1, 4)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    kinds = torch.tensor(truth["labels"], dtype=torch.long)
    logits, places = seen["logits"][:, None].float(), seen["layer_boxes"][:, None].float()
    (match,) = match_inputs(logits, places, [kinds], [box_ops.xyxy_to_cxcywh(boxes)], [size])
    costs = torch.stack([cost(match) for cost in head.assigner.costs], -1)  # [D, Q, N, costs]
    (assigned,) = head.assigner.assign([match])  # [D, Q]
    return {
        "costs": [NAMES.get(type(c).__name__, type(c).__name__) for c in head.assigner.costs],
        "objects": [
            {"label": labels[kind] if kind < len(labels) else str(kind), "box": box}
            for kind, box in zip(kinds.tolist(), boxes.tolist(), strict=True)
        ],
        "boxes": [[[round(v, 3) for v in box] for box in layer] for layer in corners(seen)],
        "layers": [_layer(*each) for each in zip(costs, assigned, strict=True)],
    }


def corners(seen: Mapping[str, Tensor]) -> list[list[list[float]]]:
    """The boxes of every layer's queries as corners in 0..1."""
    found: list[list[list[float]]] = to_corners(seen["layer_boxes"]).tolist()
    return found


def _layer(costs: Tensor, assigned: Tensor) -> list[dict[str, Any]]:
    """Per object its query, and rows (query, costs...) by total cost; costs [Q, N, costs]."""
    objects = []
    for index in range(costs.shape[1]):
        (own,) = (assigned == index).nonzero()[:, 0].tolist() or [None]
        best = costs[:, index].sum(-1).argsort()[:CHEAPEST].tolist()
        shown = best if own is None or own in best else [*best, own]
        rows = [[query, *(round(c, 3) for c in costs[query, index].tolist())] for query in shown]
        objects.append({"query": own, "rows": rows})
    return objects
