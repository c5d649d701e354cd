"""Where the queries of a DETR3D sampled the images, and with which weights."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from cupola.models.detr.inspection import record
from cupola.models.detr3d.references import to_meters
from cupola.structures import boxes3d


@contextmanager
def self_attention(layers: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Collects the self-attention of the queries [Q, K] of each layer, the mean of its heads.

    K are the queries, and remembered ones after them.
    """
    weights: list[list[Tensor]] = [[] for _ in layers]
    found: list[Tensor] = []
    with ExitStack() as stack:
        for layer, own in zip(layers, weights, strict=True):
            stack.callback(record(layer.attentions[0], own))
        yield found
    found += [own[-1][0].mean(0) for own in weights]


@torch.no_grad()
def inspect_detr3d(
    model: Any, pixels: Tensor, lidar2img: Tensor, image_size: Any
) -> dict[str, Tensor]:
    """One sample: pixels [1, N, 3, H, W], lidar2img [1, N, 4, 4] -> what each layer sampled.

    Letters: D decoder layers, N cameras, Q queries, C classes, L feature levels.
    Returns logits [Q, C] and boxes [Q, 9] of the last layer, z at the bottom; references [D, Q, 3]
    in meters; uv [D, N, Q, 2] in fractions of the images and visible [D, N, Q]; weights
    [D, N, Q, L], 0 where the camera does not see the point; levels [L, 2], (height, width) of the
    maps; among [D, Q, Q], the attention of the queries to each other, each row of which sums to 1.
    """
    head, cameras = model.pts_bbox_head, model.cameras(lidar2img, image_size)
    layers = [layer.attentions[1] for layer in head.transformer.decoder.layers]
    raw: list[Tensor] = []
    training = model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        for layer in layers:
            handle = layer.attention_weights.register_forward_hook(
                lambda _, args, logits: raw.append(logits[0])
            )
            stack.callback(handle.remove)
        maps = model.extract(pixels)
        among = stack.enter_context(self_attention(head.transformer.decoder.layers))
        decoded = head.decode(maps, cameras)
        output = head.read(decoded)
    references = decoded.references[:, 0].to(decoded.states.dtype)
    points = to_meters(references, head.pc_range)  # [D, Q, 3]
    projections = [cameras.project(layer[None]) for layer in points]
    visible = torch.stack([each.visible[0] for each in projections])  # [D, N, Q]
    weights = torch.stack(
        [layer.split_weights(logits[None])[0] for layer, logits in zip(layers, raw, strict=True)]
    )  # [D, N, Q, L]
    return {
        "logits": output.logits[-1, 0],
        "boxes": boxes3d.center_to_bottom(boxes3d.decode_boxes(output.boxes[-1, 0])),
        "references": points,
        "uv": torch.stack([each.uv[0] for each in projections]),
        "visible": visible,
        "weights": weights * visible[..., None],
        "levels": torch.tensor([level.shape[-2:] for level in maps]),
        "among": torch.stack(among),
    }
