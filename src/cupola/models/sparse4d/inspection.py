"""Where the instances of a Sparse4D looked in the first frame of a stream.

Letters: D layers that look at the images, N cameras, Q instances, L levels.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from cupola.models.detr.inspection import record
from cupola.models.sparse4d.boxes import CENTER
from cupola.models.sparse4d.decoder import BOX_CODE
from cupola.models.sparse4d.frame import Frame
from cupola.models.stream_petr.inspection import looks
from cupola.structures import boxes3d


@torch.no_grad()
def inspect_sparse4d(model: Any, pixels: Tensor, frame: Frame) -> dict[str, Tensor]:
    """One sample: pixels [1, N, 3, H, W] -> what inspect_detr3d returns.

    uv is the projection of a box's center; weights [D, N, Q, L] are summed over the key points and
    averaged over the groups of channels. All cameras and levels together have the weight 1; visible
    says which cameras see the center and have at least a hundredth of it. among [D, Q, Q] is the
    attention that the instances had to each other before.
    """
    head = model.head
    shares: list[Tensor] = []
    centers: list[Tensor] = []
    among: list[Tensor] = []
    seen: list[Tensor] = []
    levels = model.extract(pixels)
    H, W = pixels.shape[-2:]

    def look(layer: Any, args: Any) -> None:
        feature, boxes, position = args[:3]
        weights = layer.weights(feature + position, frame.lidar2img)[0]  # [N, Q, G, L, P]
        shares.append(weights.sum(-1).mean(2))
        centers.append(boxes[0, :, CENTER])
        Q = boxes.shape[1]
        among.append(seen[-1][0].mean(0) if seen else torch.eye(Q, device=boxes.device))

    training = model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        for operation, layer in zip(head.operation_order, head.layers, strict=True):
            if operation == "gnn":
                stack.callback(record(layer, seen))
            elif operation == "deformable":
                stack.callback(layer.register_forward_pre_hook(look).remove)
        output, _ = head(levels, frame, model.initial_state(1))
    boxes = BOX_CODE.decode(output.boxes[-1, 0])
    return {
        "logits": output.logits[-1, 0],
        "boxes": boxes3d.center_to_bottom(boxes),
        **looks(torch.stack(centers), torch.stack(shares), frame.lidar2img[0], (H, W)),
        "levels": torch.tensor([level.shape[-2:] for level in levels]),
        "among": torch.stack(among),
    }
