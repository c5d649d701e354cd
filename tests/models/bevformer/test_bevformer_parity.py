"""BEVFormer tiny over two frames against the original, stage by stage."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.models.bevformer import Motion
from cupola.models.bevformer.motion import DEGREES, grid_shift, rotate_grid
from zoo3d import Zoo3D

pytestmark = pytest.mark.slow

LARGEST, RMS = 2e-4, 2e-5
EXTENT = (102.4, 102.4)


@pytest.fixture(scope="module")
def peer() -> Iterator[Zoo3D]:
    yield Zoo3D("bevformer_tiny")


def record(layers: Any) -> tuple[dict[str, Tensor], list[Any]]:
    """What the attentions of the layers return, filled by a forward pass."""
    kinds = ("temporal_self_attention", "spatial_cross_attention")
    found: dict[str, Tensor] = {}
    handles = []
    for number, layer in enumerate(layers):
        for kind, attention in zip(kinds, layer.attentions, strict=True):
            name = f"layer{number}_{kind}"
            handles.append(
                attention.register_forward_hook(
                    lambda _, __, out, name=name: found.__setitem__(name, out)
                )
            )
    return found, handles


def test_two_frames(peer: Zoo3D) -> None:
    model, head = peer.model, peer.model.pts_bbox_head
    transformer = head.transformer
    _, batch, *image = peer.json["inputs"]["image"]["shape"]
    height = peer.config["img_shape"][0]
    previous = None
    for t in range(2):
        pixels = peer.image(f"image{t}", image).view(batch, *image)
        pixels[..., height:, :] = 0
        lidar2img, can_bus = peer.stored("lidar2img")[t], peer.stored("can_bus")[t]
        with torch.no_grad():
            levels = model.extract(pixels)
            cameras = model.cameras(pixels, lidar2img, peer.config["img_shape"])
            check_geometry(peer, f"frame{t}", head, cameras, can_bus, previous)
            found, handles = record(transformer.encoder.layers[:2])
            bev = head.see(levels, cameras, Motion(can_bus, previous))
            decoded = transformer.decode(
                bev, head.query_embedding.weight, head.size, head.reg_branches
            )
            output = head.read(bev)
        for handle in handles:
            handle.remove()
        at = f"frame{t}"
        peer.check(f"{at}/feat", levels[0], LARGEST, RMS)
        for name, value in found.items():
            peer.check(f"{at}/{name}", value, LARGEST, RMS)
        peer.check(f"{at}/bev_embed", bev.transpose(0, 1), LARGEST, RMS)
        peer.check(f"{at}/init_reference", decoded.references[0], 1e-6)
        peer.check(f"{at}/inter_states", decoded.states.transpose(1, 2), LARGEST, RMS)
        refined = torch.cat((decoded.references[1:], decoded.refined[None]))
        peer.check(f"{at}/inter_references", refined, LARGEST, RMS)
        peer.check(f"{at}/all_cls_scores", output.logits, LARGEST, RMS)
        peer.check(f"{at}/all_bbox_preds", output.boxes, LARGEST, RMS)
        (detections,) = head.predict(output)
        peer.check_detections(f"{at}/pred0", detections, LARGEST, 2e-3)
        previous = bev
    targets = [{"boxes": peer.stored("gt_boxes0"), "labels": peer.stored("gt_labels0")}]
    peer.check_losses(head.loss(output, targets))
    center = targets[0]["boxes"].clone()
    center[:, 2] += center[:, 5] / 2
    (assigned,) = head.match(output, [targets[0]["labels"]], [center])
    for layer, objects in enumerate(assigned):
        wanted = peer.output(f"assigned/layer{layer}_sample0").reshape(-1)
        assert torch.equal((objects + 1).to(wanted), wanted)


def check_geometry(
    peer: Zoo3D, at: str, head: Any, cameras: Any, can_bus: Tensor, previous: Tensor | None
) -> None:
    transformer = head.transformer
    encoder = transformer.encoder
    peer.check(f"{at}/shift", grid_shift(can_bus, EXTENT).float(), 1e-6)
    query = head.bev_embedding.weight[:, None] + transformer.can_bus_mlp(can_bus.float())
    peer.check(f"{at}/bev_query", query, 1e-5)
    pillars = encoder.project(cells(head), cameras)
    uv = pillars.uv.transpose(0, 1)
    about = peer.json["outputs"][f"{at}/bev_mask"]
    visible = pillars.visible.transpose(0, 1)
    assert list(visible.shape) == about["shape"]
    stride = about["flat_stride"]
    same = visible.reshape(-1)[::stride].to(torch.uint8) == peer.output(f"{at}/bev_mask").reshape(
        -1
    )
    assert bool(same.all())
    stored = peer.output(f"{at}/reference_points_cam").reshape(-1)
    stride = peer.json["outputs"][f"{at}/reference_points_cam"]["flat_stride"]
    torch.testing.assert_close(uv.reshape(-1)[::stride], stored, rtol=1e-3, atol=2e-5)
    if previous is not None:
        turned = rotate_grid(previous, head.size, can_bus[:, DEGREES], transformer.rotate_center)
        peer.check(f"{at}/rotated_prev_bev", turned.transpose(0, 1), LARGEST, RMS)


def cells(head: Any) -> Tensor:
    from cupola.models.bevformer.encoder import cell_centers

    return cell_centers(head.size, head.bev_embedding.weight)
