"""The bird's-eye view of a BEVFormer as a picture, and the points that its queries read there."""

from typing import Any

import torch
from torch import Tensor

from cupola.models.bevformer.motion import motion_since
from cupola.models.detr3d.inspection import self_attention
from cupola.models.detr3d.references import to_meters
from cupola.structures import boxes3d

SPREAD = (0.01, 0.99)  # quantiles of a channel that become black and white


@torch.no_grad()
def inspect_bevformer(
    model: Any, pixels: Tensor, lidar2img: Tensor, image_size: Any, can_bus: Tensor
) -> dict[str, Tensor]:
    """One sample, the first frame of its stream -> what inspect_detr3d returns, and "bev".

    The queries read the bird's-eye view, not the images: uv is the projection of the reference
    points, and the weights of the cameras that see one are equal. "bev" is [rows, columns, 3],
    uint8, ahead is up: the three main components of the view as red, green and blue.
    """
    head, training = model.pts_bbox_head, model.training
    model.eval()
    try:
        maps, cameras = model.extract(pixels), model.cameras(pixels, lidar2img, image_size)
        bev = head.see(maps, cameras, motion_since(model.initial_state(1), can_bus.double()))
        with self_attention(head.transformer.decoder.layers) as among:
            decoded, output = head.decode(bev), head.read(bev)
    finally:
        model.train(training)
    references = decoded.references[:, 0].to(decoded.states.dtype)
    points = to_meters(references, head.pc_range)  # [D, Q, 3]
    seen = [cameras.project(layer[None]) for layer in points]
    visible = torch.stack([each.visible[0] for each in seen])  # [D, N, Q]
    weights = visible / visible.sum(1, keepdim=True).clamp(min=1)
    return {
        "logits": output.logits[-1, 0],
        "boxes": boxes3d.center_to_bottom(head.box_code.decode(output.boxes[-1, 0])),
        "references": points,
        "uv": torch.stack([each.uv[0] for each in seen]),
        "visible": visible,
        "weights": weights[..., None],
        "levels": torch.tensor([maps[0].shape[-2:]]),
        "among": torch.stack(among),
        "bev": picture_of(bev[0], head.size),
    }


def picture_of(bev: Tensor, size: tuple[int, int]) -> Tensor:
    """A view [K, C] of `size` (rows, columns) -> [rows, columns, 3], uint8, its last row on top."""
    centered = (bev - bev.mean(0)).double()
    _, vectors = torch.linalg.eigh(centered.T @ centered)
    main = vectors[:, -3:].flip(-1)  # [C, 3], the first component first
    strongest = main.gather(0, main.abs().argmax(0, keepdim=True))
    channels = centered @ (main * strongest.sign())  # a sign of its own would be arbitrary
    low, high = (channels.quantile(q, 0) for q in SPREAD)
    shares = ((channels - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return (shares * 255).round().to(torch.uint8).view(*size, -1).flip(0)
