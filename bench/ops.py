"""The operators of cupola.ops on a CPU against their peers, float32.

    python bench/ops.py [--rounds 5] [--threads 1]

The peer of deformable attention is mmcv's formula in plain torch; those of RoIAlign and NMS are
onnxruntime's operators. Sizes are those of an image of 800 x 1066. A ratio below 1 means ours is
faster.
"""

import argparse
from collections.abc import Callable, Sequence

import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

from cupola.ops.deform_attn import ms_deform_attn
from cupola.ops.nms import nms
from cupola.ops.roi_align import roi_align
from ratio import alternate

SHAPES = [(100, 134), (50, 67), (25, 34), (13, 17)]
CELLS = sum(height * width for height, width in SHAPES)
Operator = Callable[..., Tensor]


def attention_by_grid_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's formula for devices without its compiled operator: grid_sample on each level."""
    B, _, M, D = value.shape
    Q = locations.shape[1]
    levels = value.split([height * width for height, width in SHAPES], 1)
    grids = 2 * locations - 1
    sampled = []
    for level, (height, width) in enumerate(SHAPES):
        maps = levels[level].flatten(2).transpose(1, 2).reshape(B * M, D, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))  # [B * M, D, Q, P]
    shares = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    out = (torch.stack(sampled, -2).flatten(-2) * shares).sum(-1)
    return out.view(B, M * D, Q).transpose(1, 2)


def attention(queries: int) -> list[Tensor]:
    """value, locations and weights of one image: 8 heads of 32 channels, 4 points a level."""
    value = torch.randn(1, CELLS, 8, 32)
    locations = torch.rand(1, queries, 8, len(SHAPES), 4, 2)
    weights = torch.rand(1, queries, 8, len(SHAPES), 4)
    return [each.requires_grad_() for each in (value, locations, weights / weights.sum())]


def compare(name: str, ours: Operator, peer: Operator, given: list[Tensor], rounds: int) -> None:
    """Prints the times of both forward, and forward with backward."""

    def training(operator: Operator) -> Callable[[], object]:
        return lambda: torch.autograd.grad(operator(*given).sum(), given)

    with torch.no_grad():
        times = alternate(lambda: ours(*given), lambda: peer(*given), rounds)
    for what, each in (
        ("forward", times),
        ("forward and backward", alternate(training(ours), training(peer), rounds)),
    ):
        say(f"{name}, {what}", each, "formula")


def onnx_operator(name: str, kinds: Sequence[int], **settings: object) -> Operator:
    """One ONNX operator in onnxruntime, on as many threads as torch has."""
    names = [f"input{i}" for i in range(len(kinds))]
    inputs = [helper.make_tensor_value_info(n, k, None) for n, k in zip(names, kinds, strict=True)]
    kind = TensorProto.INT64 if name == "NonMaxSuppression" else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("output", kind, None)]
    node = helper.make_node(name, names, ["output"], **settings)
    graph = helper.make_graph([node], name, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def call(*given: Tensor) -> Tensor:
        feeds = {n: t.numpy() for n, t in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return call


def say(name: str, times: tuple[float, float], peer: str) -> None:
    mine, theirs = times
    print(f"{name}: ours {mine:.4f} s, {peer} {theirs:.4f} s, ratio {mine / theirs:.2f}",
          flush=True)  # fmt: skip


def regions(rounds: int) -> None:
    """1,000 regions of 12 to 112 pixels in the finest map of an FPN."""
    x = torch.randn(1, 256, 200, 272)
    corner = torch.rand(1000, 2) * 900
    boxes = torch.cat((corner, corner + torch.rand(1000, 2) * 100 + 12), 1)
    rois = torch.cat((torch.zeros(1000, 1), boxes), 1)
    for ratio in (0, 2):
        peer = onnx_operator(
            "RoiAlign", (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64),
            output_height=7, output_width=7, sampling_ratio=ratio, spatial_scale=0.25,
        )  # fmt: skip
        times = alternate(
            lambda ratio=ratio: roi_align(x, rois, 7, 0.25, ratio),
            lambda peer=peer: peer(x, boxes, rois[:, 0].long()),
            rounds,
        )
        say(f"roi_align, sampling_ratio {ratio}", times, "onnxruntime")


def suppression(rounds: int) -> None:
    """4,800 proposals of five levels, of which 1,000 are kept."""
    corner = torch.rand(4800, 2) * 1000
    boxes = torch.cat((corner, corner + torch.rand(4800, 2) * 60 + 5), 1)
    scores, levels = torch.rand(4800), torch.randint(5, (4800,))
    peer = onnx_operator(
        "NonMaxSuppression",
        (*[TensorProto.FLOAT] * 2, TensorProto.INT64, *[TensorProto.FLOAT] * 2),
    )
    apart = boxes + levels[:, None] * 1100.0  # the operator has no groups
    limits = torch.tensor([1000]), torch.tensor([0.7]), torch.tensor([0.0])
    times = alternate(
        lambda: nms(boxes, scores, 0.7, levels, max_num=1000),
        lambda: peer(apart[None], scores[None, None], *limits),
        rounds,
    )
    say("nms", times, "onnxruntime")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, SHAPES, locations, weights)

    for name, queries in (("encoder", CELLS), ("decoder", 300)):
        label = f"ms_deform_attn, {name}, {queries} queries"
        compare(label, ours, attention_by_grid_sample, attention(queries), arguments.rounds)
    with torch.no_grad():
        regions(arguments.rounds)
        suppression(arguments.rounds)


if __name__ == "__main__":
    main()
