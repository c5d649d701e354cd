"""PETR and PETRv2 at full width against the originals, stage by stage."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from cupola.models.petr.petr_v2 import _seconds
from cupola.structures import boxes3d
from zoo3d import Zoo3D

# golden -> largest and rms difference of logits, then of boxes in meters
BOUNDS = {
    "petr_r50dcn_p4": (5e-4, 1e-4, 5e-3, 3e-4),
    "petr_vov_p4": (2e-3, 5e-4, 3e-2, 2e-3),
    "petrv2_vov_p4": (3e-3, 5e-4, 2e-2, 2e-3),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BOUNDS)
def peer(request: pytest.FixtureRequest) -> Iterator[Zoo3D]:
    yield Zoo3D(request.param)


@pytest.fixture(scope="module")
def seen(peer: Zoo3D) -> dict[str, Any]:
    """Every stage of one forward pass, computed as the head's forward does."""
    shape = peer.json["inputs"]["image"]["shape"]
    height, width = peer.config["img_shape"][0]
    pixels = peer.image("image", shape[1:]).view(shape).clone()
    pixels[..., height:, :] = 0
    pixels[..., width:] = 0
    model, head = peer.model, peer.model.pts_bbox_head
    views = model.views(pixels, peer.stored("lidar2img"), (height, width))
    if "timestamp" in peer.json["inputs"]:
        views = replace(views, seconds=_seconds(peer.stored("timestamp")))
    with torch.no_grad():
        levels = model.extract(pixels)
        features = head.project(levels)
        mask = head.cell_mask(views, features)
        logits = head.ray_logits(features, views)
        references = head.reference_points.weight.expand(len(features), -1, -1)
        position = head.embed_positions(features, views, mask)
        states = head.attend(features, position, mask, references)
        return {
            "levels": levels,
            "mask": mask,
            "rays": logits,
            "points": head.position_encoder(logits).unflatten(0, features.shape[:2]),
            "sine": head.embed_cells(features, mask).flatten(0, 1),
            "position": position,
            "states": states,
            "output": head.read(states, references, views),
            "whole": head(levels, views),
        }


def test_features_and_positions(peer: Zoo3D, seen: dict[str, Any]) -> None:
    for i, level in enumerate(seen["levels"]):
        peer.check(f"feat{i}", level, 3e-3)
    peer.check("mask", seen["mask"].to(torch.uint8), 0)
    peer.check("position_encoder_input", seen["rays"], 5e-3)
    peer.check("position_3d", seen["points"], 2e-3)
    peer.check("adapted_sine", seen["sine"], 1e-4)
    peer.check("pos_embed", seen["position"], 3e-3)


def test_decoder_and_detections(peer: Zoo3D, seen: dict[str, Any]) -> None:
    logits, logits_rms, boxes, boxes_rms = BOUNDS[peer.json["name"]]
    peer.check("decoder_states", seen["states"], 5e-3)
    for output in (seen["output"], seen["whole"]):
        peer.check("all_cls_scores", output.logits, logits, logits_rms)
        peer.check("all_bbox_preds", output.boxes, boxes, boxes_rms)
    found = peer.model.pts_bbox_head.predict(seen["output"])[0]
    peer.check_detections("pred0", found, logits, 3 * boxes)


def test_matching_and_losses(peer: Zoo3D, seen: dict[str, Any]) -> None:
    head = peer.model.pts_bbox_head
    target = {"boxes": peer.stored("gt_boxes0"), "labels": peer.stored("gt_labels0").long()}
    boxes = boxes3d.bottom_to_center(target["boxes"])
    (assigned,) = head.match(seen["output"], [target["labels"]], [boxes])
    for layer in range(6):
        expected = peer.output(f"assigned/layer{layer}_sample0").reshape(-1).long()
        assert torch.equal(assigned[layer] + 1, expected)
    peer.check_losses(head.loss(seen["output"], [target]))
