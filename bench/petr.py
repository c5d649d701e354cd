"""PETR and StreamPETR on a CPU against the originals' formulas: time and peak memory.

    python bench/petr.py [--quick] [--rounds 3] [--threads 1]

PETR ResNet-50 p4 with DCNv2 at 6 x 320 x 800, StreamPETR ResNet-50 at 6 x 256 x 704. The original's
formulas are written here in plain torch with the same weights: all images at once, attention with
its weights, matrices repeated for every point of every ray, keys and their positions added in every
layer, batch norms as they are. Both use Cupola's deformable convolution. --quick takes smaller
images and one round. A ratio below 1 means that Cupola is faster, or needs less memory.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import cupola
from cupola.data.driving import camera_rig
from cupola.models.layers import inverse_sigmoid
from cupola.models.petr.cells import tokens
from cupola.models.petr.head import Views, place_codes
from cupola.models.petr.position import encode_points
from cupola.models.stream_petr.frame import Frame
from cupola.runtime.optimize.folding import fold_batch_norms
from peak import compare
from ratio import alternate, machine

RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
WIDE = [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]
SIZES = {"petr": (320, 800), "stream_petr": (256, 704)}
QUICK = {"petr": (128, 320), "stream_petr": (128, 352)}
Size = tuple[int, int]


def decoder_config(stream: bool) -> dict[str, Any]:
    """Six layers, of StreamPETR where `stream`, else of PETR."""
    attention = {"type": "MultiheadAttention", "embed_dims": 256, "num_heads": 8, "dropout": 0.1}
    layer = {
        "type": "PETRTemporalDecoderLayer" if stream else "PETRTransformerDecoderLayer",
        "attn_cfgs": [attention, {**attention, "type": "PETRMultiheadAttention"}],
        "feedforward_channels": 2048,
        "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
    }
    return {
        "type": "PETRTransformerDecoder",
        "return_intermediate": True,
        "num_layers": 6,
        "transformerlayers": layer,
    }


def config(kind: str) -> dict[str, Any]:
    """The published settings of petr_r50dcn_gridmask_p4, or stream_petr_r50_flash_704."""
    stream = kind == "stream_petr"
    own = {
        "type": "StreamPETRHead",
        "num_query": 644,
        "memory_len": 1024,
        "topk_proposals": 256,
        "num_propagated": 256,
    }
    other = {
        "type": "PETRHead",
        "num_query": 900,
        "with_multiview": True,
        "positional_encoding": {
            "type": "SinePositionalEncoding3D",
            "num_feats": 128,
            "normalize": True,
        },
    }
    deformable = {
        "style": "caffe",
        "dcn": {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False},
        "stage_with_dcn": (False, False, True, True),
    }
    return {
        "type": "Petr3D",
        "img_backbone": {
            "type": "ResNet",
            "depth": 50,
            "out_indices": (2, 3),
            "norm_cfg": {"type": "BN2d", "requires_grad": False},
            **({} if stream else deformable),
        },
        "img_neck": {
            "type": "CPFPN",
            "in_channels": [1024, 2048],
            "out_channels": 256,
            "num_outs": 2,
        },
        "pts_bbox_head": {
            **(own if stream else other),
            "num_classes": 10,
            "in_channels": 256,
            "LID": True,
            "position_range": WIDE,
            "transformer": {"type": "PETRTransformer", "decoder": decoder_config(stream)},
            "bbox_coder": {"type": "NMSFreeCoder", "pc_range": RANGE, "post_center_range": WIDE},
        },
    }


def attend(layer: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of [Q, 1, C] to [K, 1, C] whose weights are made, and their mean over the heads."""
    attn, E = layer.attn, layer.embed_dims
    inputs = zip((query, key, value), attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3),
                 strict=True)  # fmt: skip
    q, k, v = (
        torch.nn.functional.linear(x, weight, bias).view(-1, 8, E // 8).transpose(0, 1)
        for x, weight, bias in inputs
    )
    weights = ((q / (E // 8) ** 0.5) @ k.transpose(1, 2)).softmax(-1)  # [8, Q, K]
    out = attn.out_proj((weights @ v).transpose(0, 1).reshape(-1, 1, E))
    weights.mean(0)
    return out


def decode(head: Any, query: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor,
           past: Tensor | None = None, past_position: Tensor | None = None) -> Tensor:  # fmt: skip
    """The states of all layers [L, 1, Q, C]; inputs [tokens, 1, C]."""
    states = []
    for layer in head.transformer.decoder.layers:
        known, known_position = query, position
        if past is not None and past_position is not None:
            known = torch.cat((query, past))
            known_position = torch.cat((position, past_position))
        own, cross = layer.attentions
        query = query + attend(own, query + position, known + known_position, known)
        query = layer.norms[0](query)
        query = query + attend(cross, query + position, memory + memory_position, memory)
        query = layer.norms[1](query)
        query = layer.norms[2](layer.ffns[0](query))
        states.append(head.transformer.decoder.post_norm(query))
    return torch.stack(states).transpose(1, 2)


def ray_points(columns: Tensor, rows: Tensor, depths: Tensor, matrices: Tensor) -> Tensor:
    """Fractions [1, N, w, h, D, 3], with a matrix of its own for each point."""
    N = matrices.shape[1]
    grid = torch.stack(torch.meshgrid(columns, rows, depths, indexing="ij"), -1)
    grid = torch.cat((grid, torch.ones_like(grid[..., :1])), -1)  # [w, h, D, 4]
    grid[..., :2] *= grid[..., 2:3].clamp(min=1e-5)
    grid = grid.repeat(1, N, 1, 1, 1, 1)[..., None]
    inverse = torch.linalg.inv(matrices).float()[:, :, None, None, None]
    inverse = inverse.repeat(1, 1, *grid.shape[2:5], 1, 1)
    points = (inverse @ grid)[..., :3, 0]
    low, high = points.new_tensor(WIDE[:3]), points.new_tensor(WIDE[3:])
    return (points - low) / (high - low)


def maps_of(model: Any, pixels: Tensor) -> list[Tensor]:
    """The maps [1, N, C, h, w] of all images at once."""
    return [level[None] for level in model.img_neck(model.img_backbone(pixels[0]))]


def original_petr(model: Any, pixels: Tensor, matrices: Tensor) -> Any:
    head = model.pts_bbox_head
    features = head.project(maps_of(model, pixels))
    N, (h, w), (H, W) = features.shape[1], features.shape[-2:], pixels.shape[-2:]
    index = torch.arange(64).float()
    depths = 1 + 60.2 / (64 * 65) * index * (index + 1)
    rays = ray_points(torch.arange(w).float() * W / w, torch.arange(h).float() * H / h,
                      depths, matrices.double())  # fmt: skip
    logits = inverse_sigmoid(rays.permute(0, 1, 4, 5, 3, 2).contiguous().view(N, -1, h, w))
    mask = torch.zeros(1, N, h, w, dtype=torch.bool)
    sine = head.adapt_pos3d(head.positional_encoding(mask).flatten(0, 1))
    position = tokens((head.position_encoder(logits) + sine)[None]).transpose(0, 1)
    references = head.reference_points.weight[None]
    query = head.query_embedding(encode_points(references, 128)).transpose(0, 1)
    memory = tokens(features).transpose(0, 1)
    states = decode(head, torch.zeros_like(query), query, memory, position)
    return head.read(states, references, Views(matrices, (H, W)))


def original_stream(model: Any, pixels: Tensor, frame: Frame, state: Any) -> Any:
    head = model.pts_bbox_head
    features = maps_of(model, pixels)[0]
    columns, rows = head.locations(features)
    rays = ray_points(columns, rows, head.coords_d, frame.lidar2img).permute(0, 1, 3, 2, 4, 5)
    rays = rays.flatten(1, 3).contiguous()  # [1, K, D, 3]
    position = head.position_encoder(inverse_sigmoid(rays.flatten(-2)))
    focal = frame.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].abs() / 1e3
    focal = focal.repeat(1, features.shape[-2] * features.shape[-1], 1)
    cone = torch.cat((focal, rays[:, :, -1], rays[:, :, -30]), -1)
    keys = head.spatial_alignment(head.memory_embed(tokens(features)), cone)
    position = head.featurized_pe(position, keys)
    memory = head.recall(frame, state)
    queries = head.align(memory, head.reference_points.weight[None])
    flat = [each.transpose(0, 1) for each in (queries.target, queries.position, keys, position,
                                              queries.memory, queries.memory_position)]  # fmt: skip
    states = decode(head, *flat)
    codes = torch.stack([branch(s) for branch, s in zip(head.reg_branches, states, strict=True)])
    place_codes(codes, queries.references, head.pc_range, head.box_code)
    output = head.read(states, queries.references)
    return output, head.keep(memory, states, output, frame)


def forwards(kind: str, size: Size) -> dict[str, Callable[[], Any]]:
    """Both ways with the same random weights, eval mode; Cupola's with folded batch norms."""
    torch.manual_seed(0)
    model = cupola.build(config(kind)).eval()
    ours = fold_batch_norms(model)
    pixels = torch.randn(1, 6, 3, *size)
    matrices = torch.stack([torch.from_numpy(c.lidar2img).float() for c in camera_rig(size)])[None]
    if kind == "petr":
        return {
            "ours": lambda: ours(pixels, matrices),
            "original": lambda: original_petr(model, pixels, matrices),
        }
    intrinsics = torch.eye(4).repeat(1, 6, 1, 1) * 500
    motion = (intrinsics, torch.eye(4)[None], torch.zeros(1, dtype=torch.float64))
    frame = Frame(matrices, *motion, size)
    _, state = ours(pixels, matrices, *motion)
    return {
        "ours": lambda: ours(pixels, matrices, *motion, state=state),
        "original": lambda: original_stream(model, pixels, frame, state),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=SIZES, action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    for kind in arguments.only or SIZES:
        size = (QUICK if arguments.quick else SIZES)[kind]
        with torch.inference_mode():
            ways = forwards(kind, size)
            for a, b in zip(_tensors(ways["ours"]()), _tensors(ways["original"]()), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=2e-2)
            ours, peer = alternate(ways["ours"], ways["original"],
                                   1 if arguments.quick else arguments.rounds)  # fmt: skip
        print(f"{kind} 6 x {size}: ours {ours:.3g} s, original {peer:.3g} s, "
              f"ratio {ours / peer:.2f}", flush=True)  # fmt: skip
        text = compare(forwards, (kind, size), arguments.threads)
        print(f"{kind} 6 x {size}: {text}", flush=True)


def _tensors(output: Any) -> list[Tensor]:
    found = output[0] if isinstance(output[0], tuple) else output
    return [found.logits, found.boxes]


if __name__ == "__main__":
    main()
