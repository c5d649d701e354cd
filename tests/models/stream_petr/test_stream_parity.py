"""StreamPETR and RepDETR3D over three frames against the originals, stage by stage."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from zoo3d import Zoo3D

# golden -> largest and rms difference of logits, then of boxes in meters
BOUNDS = {
    "streampetr_r50": (5e-3, 5e-4, 2e-2, 1e-3),
    "repdetr3d_vov": (1e-2, 1e-3, 1e-1, 3e-3),
}
FIELDS = ("embedding", "reference_point", "timestamp", "egopose", "velo")
QUERIES = ("tgt", "query_pos", "reference_points", "temp_memory", "temp_pos")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BOUNDS)
def peer(request: pytest.FixtureRequest) -> Iterator[Zoo3D]:
    yield Zoo3D(request.param)


def frames(peer: Zoo3D) -> Iterator[tuple[torch.Tensor, Any, torch.Tensor]]:
    """Images, calibration and prev_exists of every frame."""
    count, streams, *image = peer.json["inputs"]["image"]["shape"]
    letter = peer.json["inputs"]["image"]["how"].split('"')[1]
    for t in range(count):
        shape = [streams * image[0], *image[1:]]
        pixels = peer.image(f"{letter}{t}", shape).view(streams, *image)
        names = [n for n in ("lidar2img", "intrinsics", "ego_pose", "timestamp", "extrinsics")
                 if n in peer.json["inputs"]]  # fmt: skip
        given = [peer.stored(name)[t] for name in names]
        yield pixels, peer.model.frame(pixels, *given), peer.stored("prev_exists")[t]


def test_three_frames(peer: Zoo3D) -> None:
    model, head = peer.model, peer.model.pts_bbox_head
    logits, logits_rms, boxes, boxes_rms = BOUNDS[peer.json["name"]]
    state = None
    with torch.no_grad():
        for t, (pixels, frame, exists) in enumerate(frames(peer)):
            state = model._started(state, exists, len(pixels))
            levels = model.features(pixels)
            memory = head.recall(frame, state)
            for name in FIELDS:
                peer.check(f"frame{t}/memory_before/{name}", getattr(memory, name), boxes)
            queries = head.align(memory, head.start(len(pixels), None)[0])
            for name, value in zip(QUERIES, queries, strict=True):
                peer.check(f"frame{t}/aligned/{name}", value, boxes)
            check_keys(peer, f"frame{t}", levels, frame)
            output, state, _ = head(levels, frame, state)
            peer.check(f"frame{t}/all_cls_scores", output.logits, logits, logits_rms)
            peer.check(f"frame{t}/all_bbox_preds", output.boxes, boxes, boxes_rms)
            for name in FIELDS:
                peer.check(f"frame{t}/memory_after/{name}", getattr(state, name), boxes)
            for b, found in enumerate(head.predict(output)):
                peer.check_detections(f"frame{t}/pred{b}", found, logits, 3 * boxes)
        check_losses(peer, output)


def check_keys(peer: Zoo3D, at: str, levels: list[torch.Tensor], frame: Any) -> None:
    head = peer.model.pts_bbox_head
    if len(levels) > 1:
        for i, level in enumerate(levels):
            peer.check(f"{at}/feat{i}", level, 5e-3)
        peer.check(f"{at}/feat_flatten", head.align_cells(levels, frame), 5e-3)
        return
    peer.check(f"{at}/feat", levels[0], 1e-3)
    position, cone = head.encode_rays(levels[0], frame)
    keys, positions = head.embed(levels[0], frame)
    peer.check(f"{at}/position_encoding", position, 2e-3)
    peer.check(f"{at}/cone", cone, 1e-5)
    peer.check(f"{at}/memory_tokens", keys, 1e-3)
    peer.check(f"{at}/pos_embed", positions, 2e-3)
    if f"{at}/roi/enc_cls_scores" in peer.json["outputs"]:
        columns, rows = head.locations(levels[0])
        height, width = frame.image_size
        where = torch.stack(torch.meshgrid(columns / width, rows / height, indexing="xy"), -1)
        peer.check(f"{at}/location", where, 1e-6)
        roi = peer.model.img_roi_head(levels[0], where)
        peer.check(f"{at}/roi/enc_cls_scores", roi.logits, 1e-3)
        peer.check(f"{at}/roi/enc_bbox_preds", roi.boxes, 1e-4)
        peer.check(f"{at}/roi/pred_centers2d", roi.centers, 1e-4)
        peer.check(f"{at}/roi/centerness", roi.centerness, 1e-3)


def check_losses(peer: Zoo3D, output: Any) -> None:
    streams = output.logits.shape[1]
    targets = [
        {"boxes": peer.stored(f"gt_boxes{b}"), "labels": peer.stored(f"gt_labels{b}").long()}
        for b in range(streams)
    ]
    peer.check_losses(peer.model.pts_bbox_head.loss(output, targets))
