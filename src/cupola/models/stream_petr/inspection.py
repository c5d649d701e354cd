"""Where the queries of a RepDETR3D sampled the cameras in the first frame of a stream."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from cupola.models.detr3d.inspection import self_attention
from cupola.structures import boxes3d

SEEN = 0.01  # share of a query's weights above which a camera counts as looked at


@torch.no_grad()
def inspect_sampling(model: Any, pixels: Tensor, frame: Any) -> dict[str, Tensor]:
    """One sample: pixels [1, N, 3, H, W] -> what inspect_detr3d returns.

    uv is the projection of a query's center, around which a layer samples; weights [D, N, Q, L] are
    summed over the points and averaged over the groups of channels. All cameras and levels together
    have the weight 1; visible says which cameras have at least a hundredth of it. among [D, Q,
    Q + M] is the attention to the queries and to M remembered ones.
    """
    shares: list[Tensor] = []
    centers: list[Tensor] = []
    levels = model.features(pixels)
    N, (H, W) = pixels.shape[1], pixels.shape[-2:]

    def look(layer: Any, args: Any, kwargs: Any) -> None:
        query, position = args[0], kwargs["query_pos"]
        weights = layer.weights(query if position is None else query + position, frame.lidar2img)
        weights = weights.view(N, *weights.shape[1:3], layer.num_levels, layer.num_pts)
        shares.append(weights.sum(-1).mean(2))  # [N, Q, L]
        centers.append(kwargs["centers"][0])

    layers, training = model.pts_bbox_head.transformer.decoder.layers, model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        among = stack.enter_context(self_attention(layers))
        for layer in layers:
            hook = layer.attentions[1].register_forward_pre_hook(look, with_kwargs=True)
            stack.callback(hook.remove)
        output, _, _ = model.pts_bbox_head(levels, frame, model.initial_state(1))
    boxes = model.pts_bbox_head.box_code.decode(output.boxes[-1, 0])
    return {
        "logits": output.logits[-1, 0],
        "boxes": boxes3d.center_to_bottom(boxes),
        **looks(torch.stack(centers), torch.stack(shares), frame.lidar2img[0], (H, W)),
        "levels": torch.tensor([level.shape[-2:] for level in levels]),
        "among": torch.stack(among),
    }


def looks(
    points: Tensor, weights: Tensor, matrices: Tensor, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Points [D, Q, 3], weights [D, N, Q, L], matrices [N, 4, 4], (H, W) -> what cameras see.

    references are the points, uv their projections, and visible says which cameras see the point
    and have at least SEEN of the weights.
    """
    uv, depth = boxes3d.project(points[:, None], matrices[:, None].to(points), 1e-5)
    uv = uv / uv.new_tensor((size[1], size[0]))  # [D, N, Q, 2]
    inside = ((uv > 0) & (uv < 1)).all(-1) & (depth > 1e-5).view(uv.shape[:-1])
    visible = inside & (weights.sum(-1) >= SEEN)
    return {"references": points, "uv": uv, "visible": visible, "weights": weights}
