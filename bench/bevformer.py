"""BEVFormer-tiny on a CPU against the original's formulas: time and peak memory.

    python bench/bevformer.py [--quick] [--rounds 3] [--threads 1]

A frame that follows another one, of six images of 450 x 800, padded to 480 x 800. The original's
formulas are written here in plain torch with the same weights: all images at once and batch norms
as they are, matrices repeated for every point of every pillar, the queries of each camera copied
into a table as long as the longest, grid_sample with every head as an image, both views of the
temporal attention as a batch, regressions computed twice. A ratio below 1 means that Cupola is
faster, or needs less memory.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cupola
from cupola.data.driving import camera_rig
from cupola.models.detr3d.references import place_boxes, refine
from cupola.runtime.optimize.folding import fold_batch_norms
from peak import compare
from ratio import alternate, machine

RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
SIZE, QUICK = (480, 800), (160, 256)
Size = tuple[int, int]


def config() -> dict[str, Any]:
    """The published settings of bevformer_tiny."""
    wide = {"embed_dims": 256, "num_levels": 1}
    rest = {"feedforward_channels": 512, "ffn_dropout": 0.1, "operation_order": ORDER}
    sampled = {"type": "MSDeformableAttention3D", "num_points": 8, **wide}
    cell = [
        {"type": "TemporalSelfAttention", **wide},
        {"type": "SpatialCrossAttention", "embed_dims": 256, "deformable_attention": sampled},
    ]
    thing = [
        {"type": "MultiheadAttention", "embed_dims": 256, "num_heads": 8, "dropout": 0.1},
        {"type": "CustomMSDeformableAttention", **wide},
    ]
    encoder = {
        "type": "BEVFormerEncoder",
        "num_layers": 3,
        "pc_range": RANGE,
        "transformerlayers": {"type": "BEVFormerLayer", "attn_cfgs": cell, **rest},
    }
    decoder = {
        "type": "DetectionTransformerDecoder",
        "num_layers": 6,
        "return_intermediate": True,
        "transformerlayers": {"type": "DetrTransformerDecoderLayer", "attn_cfgs": thing, **rest},
    }
    return {
        "type": "BEVFormer",
        "video_test_mode": True,
        "img_backbone": {
            "type": "ResNet",
            "depth": 50,
            "out_indices": (3,),
            "norm_cfg": {"type": "BN", "requires_grad": False},
        },
        "img_neck": {"type": "FPN", "in_channels": [2048], "out_channels": 256, "num_outs": 1},
        "pts_bbox_head": {
            "type": "BEVFormerHead",
            "bev_h": 50,
            "bev_w": 50,
            "num_query": 900,
            "num_classes": 10,
            "in_channels": 256,
            "with_box_refine": True,
            "transformer": {
                "type": "PerceptionTransformer",
                "encoder": encoder,
                "decoder": decoder,
            },
            "positional_encoding": {"type": "LearnedPositionalEncoding", "num_feats": 128},
            "bbox_coder": {"type": "NMSFreeCoder", "pc_range": RANGE},
        },
    }


def sample(values: Tensor, size: Size, places: Tensor, weights: Tensor) -> Tensor:
    """values [B, S, M, D] of one level, places [B, Q, M, P, 2], weights -> [B, Q, M * D]."""
    B, _, M, D = values.shape
    maps = values.flatten(2).transpose(1, 2).reshape(B * M, D, *size)
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    read = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)  # [B * M, D, Q, P]
    read = torch.stack([read], -2).flatten(-2)
    weights = weights.transpose(1, 2).reshape(B * M, 1, *weights.shape[1:2], -1)
    return (read * weights).sum(-1).view(B, M * D, -1).transpose(1, 2).contiguous()


def in_time(attention: Any, query: Tensor, views: Tensor, position: Tensor, places: Tensor,
            size: Size) -> Tensor:  # fmt: skip
    """query and position [1, K, C], views [2, K, C], places [2, K, 2]."""
    K, M, P = query.shape[1], 8, 4
    both = torch.cat((views[:1], query + position), -1)
    offsets = attention.sampling_offsets(both).view(1, K, M, 2, P, 2).permute(0, 3, 1, 2, 4, 5)
    weights = attention.attention_weights(both).view(1, K, M, 2, P).softmax(-1)
    weights = weights.permute(0, 3, 1, 2, 4).reshape(2, K, M, P).contiguous()
    cells = torch.tensor([size[1], size[0]])
    where = places[:, :, None, None] + offsets.reshape(2, K, M, P, 2) / cells
    read = sample(attention.value_proj(views).view(2, K, M, -1), size, where, weights)
    read = read.permute(1, 2, 0).view(K, -1, 1, 2).mean(-1).permute(2, 0, 1)
    out: Tensor = attention.output_proj(read) + query
    return out


def in_space(cross: Any, query: Tensor, features: Tensor, size: Size, uv: Tensor,
             visible: Tensor) -> Tensor:  # fmt: skip
    """query [1, K, C], features [N, S, C], uv [N, K, D, 2], visible [N, K, D]."""
    attention, (N, _, C), M, P, D = cross.deformable_attention, features.shape, 8, 8, uv.shape[2]
    cells = [each.sum(-1).nonzero().squeeze(-1) for each in visible]
    longest = max(map(len, cells))
    queries, places = query.new_zeros(N, longest, C), uv.new_zeros(N, longest, D, 2)
    for n, index in enumerate(cells):
        queries[n, : len(index)] = query[0, index]
        places[n, : len(index)] = uv[n, index]
    values = attention.value_proj(features).view(N, -1, M, C // M)
    offsets = attention.sampling_offsets(queries).view(N, longest, M, P, 2)
    weights = attention.attention_weights(queries).view(N, longest, M, P).softmax(-1)
    offsets = (offsets / torch.tensor([size[1], size[0]])).view(N, longest, M, P // D, D, 2)
    where = (places[:, :, None, None] + offsets).view(N, longest, M, P, 2)
    read = sample(values, size, where, weights)
    slots = torch.zeros_like(query)
    for n, index in enumerate(cells):
        slots[0, index] += read[n, : len(index)]
    count = (visible.sum(-1) > 0).sum(0).clamp(min=1.0)
    out: Tensor = cross.output_proj(slots / count[..., None]) + query
    return out


def project(points: Tensor, matrices: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Points [K, D, 3] in meters, a matrix of its own for each -> uv and visible [N, K, D]."""
    flat = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    flat = flat[None].repeat(len(matrices), 1, 1, 1)[..., None]
    repeated = matrices[:, None, None].repeat(1, *points.shape[:2], 1, 1)
    image = (repeated @ flat)[..., 0]
    depth = image[..., 2:3]
    uv = image[..., :2] / depth.maximum(torch.full_like(depth, 1e-5))
    uv = uv / torch.tensor([size[1], size[0]])
    return uv, (depth[..., 0] > 1e-5) & ((uv > 0) & (uv < 1)).all(-1)


def turn(view: Tensor, size: Size, degrees: Tensor) -> Tensor:
    """torchvision's rotation of [1, K, C] about (100, 100), as an affine grid."""
    rows, columns = size
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    x, y = 100 - columns / 2, 100 - rows / 2
    theta = torch.stack((torch.stack((cos, -sin, x - cos * x + sin * y)),
                         torch.stack((sin, cos, y - sin * x - cos * y)))).float()  # fmt: skip
    ys, xs = torch.meshgrid(torch.arange(rows) + 0.5 - rows / 2,
                            torch.arange(columns) + 0.5 - columns / 2, indexing="ij")  # fmt: skip
    base = torch.stack((xs, ys, torch.ones_like(xs)), -1)
    grid = base @ (theta.T / torch.tensor([columns / 2, rows / 2]))
    picture = view[0].view(rows, columns, -1).permute(2, 0, 1)[None]
    turned = F.grid_sample(picture, grid[None], "nearest", align_corners=False)
    return turned[0].permute(1, 2, 0).reshape(1, rows * columns, -1)


def original(model: Any, pixels: Tensor, matrices: Tensor, motion: Any) -> Any:
    head, (H, W) = model.pts_bbox_head, pixels.shape[-2:]
    transformer, size = head.transformer, head.size
    (level,) = model.img_neck(model.img_backbone(pixels[0]))
    cells = level.flatten(2).transpose(1, 2) + transformer.cams_embeds[:, None]
    cells = cells + transformer.level_embeds[:1]
    mask = torch.zeros(1, *size, dtype=torch.bool)
    position = head.positional_encoding(mask).flatten(2).transpose(1, 2)
    query = head.bev_embedding.weight + transformer.can_bus_mlp(motion.can_bus.float())
    query = query[None]
    previous = turn(motion.previous, size, motion.can_bus[0, 17])
    views = torch.stack((previous, query), 1).flatten(0, 1)
    ys, xs = torch.meshgrid((torch.arange(size[0]) + 0.5) / size[0],
                            (torch.arange(size[1]) + 0.5) / size[1], indexing="ij")  # fmt: skip
    flat = torch.stack((xs, ys), -1).flatten(0, 1)
    length = motion.can_bus[:, :2].norm(dim=-1)
    angle = motion.can_bus[:, 16] - torch.atan2(motion.can_bus[:, 1], motion.can_bus[:, 0])
    shift = torch.stack((length * angle.sin(), length * angle.cos()), -1).float() / 102.4
    places = torch.stack((flat + shift, flat))
    tall = torch.linspace(0.5, 7.5, 4) / 8
    points = torch.cat((flat[:, None].expand(-1, 4, -1), tall.expand(len(flat), -1)[..., None]), -1)
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    uv, visible = project(points * (high - low) + low, matrices[0], (H, W))
    for layer in transformer.encoder.layers:
        query = layer.norms[0](in_time(layer.attentions[0], query, views, position, places, size))
        shape = (level.shape[-2], level.shape[-1])
        query = layer.norms[1](in_space(layer.attentions[1], query, cells, shape, uv, visible))
        query = layer.norms[2](layer.ffns[0](query))
    return decode(head, query), query


def decode(head: Any, bev: Tensor) -> Any:
    """Logits and boxes of all layers from the view [1, K, C]."""
    position, query = head.query_embedding.weight[None].chunk(2, -1)
    references = head.transformer.reference_points(position).sigmoid()
    logits, boxes = [], []
    for number, layer in enumerate(head.transformer.decoder.layers):
        query = attend(layer, query, position)
        cross = layer.attentions[1]
        offsets = cross.sampling_offsets(query + position).view(1, -1, 8, 4, 2)
        weights = cross.attention_weights(query + position).view(1, -1, 8, 4).softmax(-1)
        where = references[:, :, None, None, :2] + offsets / torch.tensor(head.size[::-1])
        values = cross.value_proj(bev).view(1, bev.shape[1], 8, -1)
        query = query + cross.output_proj(sample(values, head.size, where, weights))
        query = layer.norms[2](layer.ffns[0](layer.norms[1](query)))
        logits.append(head.cls_branches[number](query))
        boxes.append(place_boxes(references, head.reg_branches[number](query), RANGE))
        references = refine(references, head.reg_branches[number](query))
    return torch.stack(logits), torch.stack(boxes)


def attend(layer: Any, query: Tensor, position: Tensor) -> Tensor:
    """Self-attention whose weights are made, and the norm after it; [1, Q, C]."""
    attn, Q = layer.attentions[0].attn, query.shape[1]
    inputs = zip((query + position, query + position, query), attn.in_proj_weight.chunk(3),
                 attn.in_proj_bias.chunk(3), strict=True)  # fmt: skip
    q, k, v = (F.linear(x, w, b).view(Q, 8, -1).transpose(0, 1) for x, w, b in inputs)
    weights = ((q / q.shape[-1] ** 0.5) @ k.transpose(1, 2)).softmax(-1)
    weights.mean(0)
    out = attn.out_proj((weights @ v).transpose(0, 1).reshape(1, Q, -1))
    normed: Tensor = layer.norms[0](query + out)
    return normed


def forwards(size: Size) -> dict[str, Callable[[], Any]]:
    """Both ways with the same random weights, eval mode; Cupola's with folded batch norms."""
    from cupola.models.bevformer import Motion
    from cupola.models.bevformer.motion import motion_since

    torch.manual_seed(0)
    model = cupola.build(config()).eval()
    ours = fold_batch_norms(model)
    pixels = torch.randn(1, 6, 3, *size)
    matrices = torch.stack([torch.from_numpy(c.lidar2img).float() for c in camera_rig(size)])[None]
    can_bus = torch.randn(2, 1, 18, dtype=torch.float64)
    _, state = ours(pixels, matrices, can_bus=can_bus[0])
    motion = motion_since(state, can_bus[1])

    def mine() -> Any:
        output, after = ours(pixels, matrices, can_bus=can_bus[1], state=state)
        return output, after.bev

    return {
        "ours": mine,
        "original": lambda: original(model, pixels, matrices, Motion(motion.can_bus, state.bev)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    size = QUICK if arguments.quick else SIZE
    with torch.inference_mode():
        ways = forwards(size)
        (ours, bev), ((logits, boxes), other) = ways["ours"](), ways["original"]()
        for a, b in ((ours.logits, logits), (ours.boxes, boxes), (bev, other)):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-3)
        mine, peer = alternate(ways["ours"], ways["original"],
                               1 if arguments.quick else arguments.rounds)  # fmt: skip
    print(f"bevformer 6 x {size}: ours {mine:.3g} s, original {peer:.3g} s, "
          f"ratio {mine / peer:.2f}", flush=True)  # fmt: skip
    print(f"bevformer 6 x {size}: {compare(forwards, (size,), arguments.threads)}", flush=True)


if __name__ == "__main__":
    main()
