"""DETR3D as the original computes it, with the weights of Cupola's modules, for bench/detr3d.py.

Written from the published description: every (camera, query) pair is sampled on every level, each
layer projects and samples again, the regression branches run in the decoder and again in the head,
and every sample has its own copy of the queries. The deformable convolution can be mmcv's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.detr3d.references import inverse_sigmoid, place_boxes, refine, to_meters
from cupola.models.layers import deform_conv

KERNELS = ("pytorch/modulated_deform_conv.cpp", "pytorch/cpu/modulated_deform_conv.cpp")


def sample_every_pair(
    levels: list[Tensor], points: Tensor, lidar2img: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """levels [B, N, C, h, w], points [B, Q, 3] in meters -> features [B, C, Q, N, L], mask."""
    B, N, Q = *lidar2img.shape[:2], points.shape[1]
    flat = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    flat = flat.view(B, 1, Q, 4, 1).expand(-1, N, -1, -1, -1)
    seen = torch.matmul(lidar2img.view(B, N, 1, 4, 4).expand(-1, -1, Q, -1, -1), flat)[..., 0]
    mask = seen[..., 2:3] > 1e-5
    uv = seen[..., :2] / torch.maximum(seen[..., 2:3], torch.full_like(seen[..., 2:3], 1e-5))
    uv = (uv / uv.new_tensor([size[1], size[0]]) - 0.5) * 2
    mask = mask & (uv > -1).all(-1, keepdim=True) & (uv < 1).all(-1, keepdim=True)
    mask = torch.nan_to_num(mask.permute(0, 2, 1, 3)[:, None].float())  # [B, 1, Q, N, 1]
    sampled = [
        F.grid_sample(level.flatten(0, 1), uv.view(B * N, Q, 1, 2), align_corners=False)
        .view(B, N, -1, Q, 1)
        .permute(0, 2, 3, 1, 4)
        for level in levels
    ]
    return torch.nan_to_num(torch.cat(sampled, -1)), mask


def cross_attention(
    attention: Any, query: Tensor, position: Tensor, levels: list[Tensor], references: Tensor,
    cameras: tuple[Tensor, tuple[int, int]],
) -> Tensor:  # fmt: skip
    """One cross-attention; query and position [Q, B, C]."""
    summed = (query + position).transpose(0, 1)  # [B, Q, C]
    B, Q, _ = summed.shape
    weights = attention.attention_weights(summed).view(B, 1, Q, attention.num_cams, -1)
    points = to_meters(references, attention.pc_range)
    features, mask = sample_every_pair(levels, points, *cameras)
    features = features * (weights.sigmoid() * mask)
    out = attention.output_proj(features.sum(-1).sum(-1).transpose(1, 2)).transpose(0, 1)
    place = attention.position_encoder(inverse_sigmoid(references)).transpose(0, 1)
    return out + query + place


def original_head(head: Any, levels: list[Tensor], lidar2img: Tensor, size: tuple[int, int]) -> Any:
    """logits and boxes [layers, B, Q, ...] of levels [B, N, C, h, w]."""
    B, embedding = lidar2img.shape[0], head.query_embedding.weight
    position, query = embedding[:, None].expand(-1, B, -1).chunk(2, -1)  # [Q, B, C]
    references = head.transformer.reference_points(position.transpose(0, 1)).sigmoid()
    states, before = [], []
    for layer, branch in zip(head.transformer.decoder.layers, head.reg_branches, strict=True):
        itself, cross = layer.attentions
        query = layer.norms[0](itself(query, query, query, query_pos=position))
        query = cross_attention(cross, query, position, levels, references, (lidar2img, size))
        query = layer.norms[2](layer.ffns[0](layer.norms[1](query)))
        states.append(query.transpose(0, 1))
        before.append(references)
        references = refine(references, branch(states[-1]))
    logits = [branch(state) for branch, state in zip(head.cls_branches, states, strict=True)]
    steps = [branch(state) for branch, state in zip(head.reg_branches, states, strict=True)]
    boxes = place_boxes(torch.stack(before), torch.stack(steps), head.pc_range)
    return torch.stack(logits), boxes


def original_forward(model: Any, pixels: Tensor, lidar2img: Tensor, size: tuple[int, int]) -> Any:
    """The whole model."""
    return original_head(model.pts_bbox_head, list(model.extract(pixels)), lidar2img, size)


Convolution = Callable[..., Tensor]


def mmcv_convolution(folder: Path) -> Convolution:
    """mmcv's deformable convolution on the CPU, compiled from its unpacked source."""
    from torch.utils.cpp_extension import load_inline

    source = folder / "mmcv" / "ops" / "csrc"
    compiled = load_inline(
        "mmcv_modulated_deform_conv",
        "\n".join(f'#include "{name}"' for name in KERNELS),
        functions=["modulated_deform_conv_forward"],
        extra_include_paths=[str(source), str(source / "common")],
        extra_cflags=["-O3"],
    )

    def convolve(
        x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
        deform_groups: int = 1, *, mask: Tensor,
    ) -> Tensor:  # fmt: skip
        pairs = [
            side for pair in (stride, padding, dilation)
            for side in ((pair, pair) if isinstance(pair, int) else pair)
        ]  # fmt: skip
        out = x.new_empty(x.shape[0], weight.shape[0], *offset.shape[-2:])
        given = torch.zeros(weight.shape[0]) if bias is None else bias
        compiled.modulated_deform_conv_forward(
            x.contiguous(), weight, given, x.new_empty(0), offset.contiguous(), mask.contiguous(),
            out, x.new_empty(0), *weight.shape[-2:], *pairs, groups, deform_groups,
            bias is not None,
        )  # fmt: skip
        return out

    return convolve


@contextmanager
def convolution(which: Convolution | None) -> Iterator[None]:
    """Within the block, `which` computes deformable convolutions; None means Cupola's."""
    ours = deform_conv.deform_conv2d
    deform_conv.deform_conv2d = which or ours
    try:
        yield
    finally:
        deform_conv.deform_conv2d = ours
