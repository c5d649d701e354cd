"""RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3): features of regions on a fixed grid.

Letters: B images, C channels, (H, W) feature map, R regions, (h, w) bins of the output, (g, k)
sampling points of a bin along y and x.
Original: mmcv/ops/roi_align.py and its CPU operator.
"""

import torch
from torch import Tensor

from cupola.ops.bilinear import weighted_rows

Terms = tuple[Tensor, Tensor]  # indices and weights of pixels along one axis
IntPair = int | tuple[int, int]


def roi_align(
    x: Tensor,
    rois: Tensor,
    output_size: IntPair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    mode: str = "avg",
) -> Tensor:
    """x [B, C, H, W], rois [R, 5] (image, then xyxy in pixels of the image) -> [R, C, h, w].

    spatial_scale: size of the map over that of the image. sampling_ratio: points per bin and axis;
    0 takes as many as the bin has pixels, rounded up. aligned: pixel centers are at half-integers.
    mode: "avg" or "max" over the points of a bin. Points more than a pixel outside the map count
    as 0. Differentiable in x. ONNX has an operator for "avg" only.
    """
    if mode not in ("avg", "max"):
        raise ValueError(f"roi_align mode is 'avg' or 'max', got {mode!r}")
    h, w = (output_size, output_size) if isinstance(output_size, int) else output_size
    if torch.onnx.is_in_onnx_export() and mode == "avg":
        return _onnx(x, rois, (h, w), spatial_scale, sampling_ratio, aligned)
    if torch.compiler.is_exporting():
        exported: Tensor = torch.ops.cupola.roi_align(
            x, rois, h, w, spatial_scale, sampling_ratio, aligned, mode
        )
        return exported
    return _roi_align(x, rois, h, w, spatial_scale, sampling_ratio, aligned, mode)


def _roi_align(
    x: Tensor,
    rois: Tensor,
    h: int,
    w: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    mode: str,
) -> Tensor:
    B, C, H, W = x.shape
    rois = rois.detach()
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]  # (x, y), [R, 2]
    if not aligned:
        size = size.clamp(min=1.0)
    bins = size / size.new_tensor([w, h])
    points = torch.full_like(bins, sampling_ratio) if sampling_ratio else bins.ceil().clamp(min=0)
    table = x.permute(0, 2, 3, 1).reshape(B * H * W, C)
    image = rois[:, 0].long() * (H * W)
    out = x.new_zeros(len(rois), h, w, C)
    kinds, kind = torch.unique(points.long(), dim=0, return_inverse=True)
    for number, (k, g) in enumerate(kinds.tolist()):
        if k == 0 or g == 0:
            continue
        members = (kind == number).nonzero()[:, 0]  # n regions with g x k points per bin
        y = _axis(start[members, 1], bins[members, 1], h, g, H)
        across = _axis(start[members, 0], bins[members, 0], w, k, W)
        if mode == "avg":  # the terms of all points of a bin are one sum
            y, across = _joined(y, H, not sampling_ratio), _joined(across, W, not sampling_ratio)
        index = y[0][:, :, None, :, None, :, None] * W + across[0][:, None, :, None, :, None]
        index = index + image[members].view(-1, 1, 1, 1, 1, 1, 1)
        weight = y[1][:, :, None, :, None, :, None] * across[1][:, None, :, None, :, None]
        terms = index.shape[-2] * index.shape[-1]  # [n, h, w, points, points, terms, terms]
        rows = weighted_rows(table, index.reshape(-1, terms), weight.reshape(-1, terms))
        out = out.index_copy(0, members, rows.view(len(members), h, w, -1, C).amax(3))
    return out.permute(0, 3, 1, 2)


def _axis(start: Tensor, step: Tensor, bins: int, points: int, size: int) -> Terms:
    """The two pixels around each sampling point along one axis, and their weights.

    start and step of the bins [n] -> index and weight, each [n, bins, points, 2].
    """
    share = (torch.arange(points).to(start) + 0.5) / points
    place = torch.arange(bins).to(start)[:, None] + share  # [bins, points]
    place = start[:, None, None] + step[:, None, None] * place
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.floor()
    part = place - low
    index = torch.stack((low, (low + 1).clamp(max=size - 1)), -1).long()
    return index, torch.stack((1 - part, part), -1) * inside[..., None]


def _joined(terms: Terms, size: int, close: bool) -> Terms:
    """The mean over the points of a bin as one weighted sum: [n, bins, points, 2] -> 1 point.

    Where points are `close`, at most a pixel apart, neighbors share pixels: points + 1 in all.
    """
    index, weight = (each.flatten(2) for each in terms)
    points = index.shape[2] // 2
    weight = weight / points
    if close:
        first = index[:, :, :1]
        offset = (index - first).clamp(max=points)  # past it only where rounding made it so
        weight = weight.new_zeros(*index.shape[:2], points + 1).scatter_add(2, offset, weight)
        index = (first + torch.arange(points + 1, device=index.device)).clamp(max=size - 1)
    return index[:, :, None], weight[:, :, None]


_operator = torch.library.custom_op("cupola::roi_align", _roi_align, mutates_args=())


@_operator.register_fake
def _shape(
    x: Tensor, rois: Tensor, h: int, w: int, scale: float, ratio: int, aligned: bool, mode: str
) -> Tensor:
    return x.new_empty(rois.shape[0], h, w, x.shape[1]).permute(0, 3, 1, 2)


def _onnx(
    x: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> Tensor:
    return torch.onnx.ops.symbolic(
        "RoiAlign",
        (x, rois[:, 1:], rois[:, 0].long()),
        {
            "output_height": size[0],
            "output_width": size[1],
            "spatial_scale": scale,
            "sampling_ratio": ratio,
            "mode": "avg",
            "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        },
        dtype=x.dtype,
        shape=(rois.shape[0], x.shape[1], *size),
        version=16,
    )
