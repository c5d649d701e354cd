"""Small networks of 1x1 convolutions whose weights are predicted."""

import torch
import torch.nn.functional as F
from torch import Tensor


class DynamicLayers:
    """Layers of 1x1 convolutions from D prototypes and two places to one mask, with ReLU between.

    A network is its weights, layer by layer, then its biases. P networks of K numbers each.
    Source: CondInst (arXiv 2003.05664).
    """

    def __init__(self, prototypes: int, channels: int, layers: int) -> None:
        widths = [prototypes + 2, *[channels] * (layers - 1), 1]
        self.shapes = list(zip(widths[1:], widths[:-1], strict=True))
        self.size = sum(rows * columns + rows for rows, columns in self.shapes)

    def __call__(self, kernels: Tensor, x: Tensor) -> Tensor:
        """Networks [P, K], their inputs [P, D + 2, n] -> logits [P, n]."""
        sizes = [rows * columns for rows, columns in self.shapes]
        sizes += [rows for rows, _ in self.shapes]
        parts = torch.split(kernels, sizes, 1)
        count = len(self.shapes)
        for i, (rows, columns) in enumerate(self.shapes):
            weight, bias = parts[i].view(-1, rows, columns), parts[count + i]
            x = torch.baddbmm(bias[:, :, None], weight, x)
            x = F.relu(x) if i < count - 1 else x
        return x[:, 0]
