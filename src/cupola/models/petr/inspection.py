"""Which cells of which cameras the queries of a PETR attended to."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from cupola.models.detr3d import DETR3DOutput
from cupola.models.detr3d.inspection import self_attention
from cupola.models.detr3d.references import to_meters
from cupola.structures import boxes3d

SEEN = 0.01  # share of a query's attention above which a camera counts as looked at


@torch.no_grad()
def inspect_attention(
    head: Any,
    run: Callable[[], DETR3DOutput],
    cells: tuple[int, int],
    references: Tensor | None = None,
    frames: int = 1,
) -> dict[str, Tensor]:
    """One sample, whose forward pass `run` makes -> where each layer's queries looked.

    `cells` is (height, width) of the map; `references` [Q, 3] in 0..1 are by default the learned
    ones. The keys are the cells of N cameras, `frames` times, whose attention is added.

    Letters: D decoder layers, N cameras, Q queries, C classes.
    Returns what inspect_detr3d does: logits [Q, C] and boxes [Q, 9], z at the bottom; references
    [D, Q, 3] in meters; uv [D, N, Q, 2], the most attended cell in fractions of the images;
    visible [D, N, Q], whether a camera has at least a hundredth of the attention; weights
    [D, N, Q, 1], its share; levels [1, 2], (height, width) of the map; among [D, Q, Q + M], the
    attention of the queries to each other, and to M remembered ones.
    """
    layers = head.transformer.decoder.layers
    maps: list[Tensor] = []

    def look(attention: Any, inputs: tuple[Tensor, ...], _: Any) -> None:
        maps.append(attention.forward(*inputs, need_weights=True)[1][0])  # [Q, N * h * w]

    training = head.training
    head.eval()
    with ExitStack() as stack:
        stack.callback(head.train, training)
        for layer in layers:
            stack.callback(layer.attentions[1].attn.register_forward_hook(look).remove)
        among = stack.enter_context(self_attention(layers))
        output = run()
    h, w = cells
    attention = torch.stack(maps)  # [D, Q, N * h * w]
    attention = torch.unflatten(attention, -1, (frames, -1, h * w)).sum(2).transpose(1, 2)
    share, best = attention.sum(-1), attention.argmax(-1)  # [D, N, Q]
    uv = torch.stack(((best % w + 0.5) / w, (best // w + 0.5) / h), -1)
    if references is None:
        references = head.reference_points.weight
    points = to_meters(references, head.pc_range).expand(len(layers), -1, -1)
    boxes = head.box_code.decode(output.boxes[-1, 0])
    return {
        "logits": output.logits[-1, 0],
        "boxes": boxes3d.center_to_bottom(boxes),
        "references": points,
        "uv": uv,
        "visible": share >= SEEN,
        "weights": share[..., None],
        "levels": torch.tensor([[h, w]]),
        "among": torch.stack(among),
    }
