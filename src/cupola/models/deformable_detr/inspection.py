"""Where the queries of a deformable detector sampled the feature maps, for `cupola explain`.

Letters: D decoder layers, Q queries, M heads, L levels, P points of a head, C classes.
"""

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.set_prediction import class_scores


@torch.no_grad()
def inspect_deformable(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """pixels [1, 3, H, W], normalized -> what each decoder layer sampled.

    scores [Q, C] in 0..1 and boxes [Q, 4] (cxcywh in 0..1) of the last layer; logits [D, Q, C] and
    layer_boxes [D, Q, 4] of all; references
    [D, Q, 4], cxcywh, before each layer (points have no size); locations [D, Q, M, L, P, 2], (x, y)
    in 0..1 of the image; weights [D, Q, M, L, P], whose sum over levels and points is 1; levels
    [L, 2], (height, width) of the maps.
    """
    transformer = model.bbox_head.transformer if model.nested else model
    layers = transformer.decoder.layers
    attentions = [each.attentions[1] if model.nested else each.cross_attn for each in layers]
    raw: list[Tensor] = []
    seen: dict[str, Any] = {}
    training = model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        for attention in attentions:
            for part in (attention.sampling_offsets, attention.attention_weights):
                hook = part.register_forward_hook(lambda _, args, result: raw.append(result))
                stack.callback(hook.remove)
        neck = model.backbone if model.neck is None else model.neck
        hook = neck.register_forward_hook(lambda _, args, maps: seen.update(maps=maps))
        stack.callback(hook.remove)
        hook = model.bbox_head.register_forward_pre_hook(
            lambda _, args: seen.update(references=args[1])
        )
        stack.callback(hook.remove)
        output = model(pixels)
    shapes = [(each.shape[-2], each.shape[-1]) for each in seen["maps"]]
    references = [F.pad(each, (0, 4 - each.shape[-1])) for each in seen["references"]]
    locations, weights = [], []
    for i, (attention, before) in enumerate(zip(attentions, seen["references"], strict=True)):
        on_levels = before[:, :, None].expand(-1, -1, len(shapes), -1)
        placed, weighed = attention.place(raw[2 * i], raw[2 * i + 1], on_levels, shapes)
        locations.append(placed[0])
        weights.append(weighed[0])
    return {
        "scores": class_scores(output.logits[-1, 0], model.bbox_head.use_sigmoid),
        "boxes": output.boxes[-1, 0],
        "logits": output.logits[:, 0],
        "layer_boxes": output.boxes[:, 0],
        "references": torch.stack([each[0] for each in references]),
        "locations": torch.stack(locations),
        "weights": torch.stack(weights),
        "levels": torch.tensor(shapes),
    }
