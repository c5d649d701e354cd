"""Colors in CIE Lab space, and how similar neighboring pixels are.

Letters: E neighbors of a pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# sRGB -> XYZ under the illuminant D65, and the white point of the 2-degree observer.
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(image: Tensor) -> Tensor:
    """An image [3, H, W], uint8 -> (L, a, b) [3, H, W], float. Source: CIE 1976, IEC 61966-2-1."""
    x = image.double() / 255
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    xyz = torch.einsum("ij,jhw->ihw", x.new_tensor(XYZ), linear)
    xyz = xyz / x.new_tensor(WHITE).view(3, 1, 1)
    roots = torch.where(xyz > 0.008856, xyz.pow(1 / 3), 7.787 * xyz + 16 / 116)
    a, y, b = roots.unbind(0)
    return torch.stack((116 * y - 16, 500 * (a - y), 200 * (y - b))).float()


def neighbors(x: Tensor, size: int, dilation: int) -> Tensor:
    """The neighbors of every pixel in a square, without itself: [N, C, h, w] -> [N, C, E, h, w].

    Beyond the border they are 0.
    """
    n, channels, height, width = x.shape
    padding = dilation * (size - 1) // 2
    found = F.unfold(x, size, dilation=dilation, padding=padding)
    found = found.view(n, channels, size * size, height, width)
    middle = size * size // 2
    return torch.cat((found[:, :, :middle], found[:, :, middle + 1 :]), 2)


def similar_neighbors(lab: Tensor, valid: Tensor, size: int, dilation: int) -> Tensor:
    """How similar neighbors are, 0..1: colors [3, h, w], valid [h, w], 0 or 1 -> [E, h, w]."""
    away = lab[None, :, None] - neighbors(lab[None], size, dilation)
    similarity = (-0.5 * away.norm(dim=1)[0]).exp()
    return similarity * neighbors(valid[None, None], size, dilation)[0, 0]
