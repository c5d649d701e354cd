"""Sparse4D v3 over five frames of two streams against the original, stage by stage."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch

from zoo3d import Zoo3D

pytestmark = pytest.mark.slow

# Largest and rms difference of logits, then of boxes in meters, in each frame.
BOUNDS = (2e-3, 2e-4, 2e-3, 2e-4)
AFTER = {"feature": "feature", "anchor": "anchor", "confidence": "confidence", "tracks": "tracks"}


@pytest.fixture(scope="module")
def peer() -> Zoo3D:
    return Zoo3D("sparse4dv3_r50")


def images(peer: Zoo3D, t: int) -> torch.Tensor:
    _, streams, *image = peer.json["inputs"]["image"]["shape"]
    letter = peer.json["inputs"]["image"]["how"].split('"')[1]
    return peer.image(f"{letter}{t}", [streams * image[0], *image[1:]]).view(streams, *image)


def inner_outputs(head: Any, stack: ExitStack) -> dict[str, torch.Tensor]:
    """What each layer but the refinements returned, filled by every forward pass."""
    found: dict[str, torch.Tensor] = {}
    for number, (kind, layer) in enumerate(zip(head.operation_order, head.layers, strict=True)):
        if kind != "refine":
            name = f"{number:02d}_{kind}"
            hook = layer.register_forward_hook(
                lambda _, args, output, name=name: found.update({name: output})
            )
            stack.callback(hook.remove)
    return found


def check_frame(peer: Zoo3D, at: str, output: Any, state: Any) -> None:
    largest, rms, place, place_rms = BOUNDS
    for name, value in (("logits", output.logits), ("quality", output.quality)):
        for k in range(2):
            peer.check(f"{at}/{name}{k}", value[k], largest, rms)
    for layer in range(6):
        peer.check(f"{at}/boxes{layer}", output.boxes[layer], place, place_rms)
    peer.check(f"{at}/tracks", output.tracks, 0)
    for name in AFTER:
        peer.check(f"{at}/after/{name}", getattr(state, name), 0 if name == "tracks" else place)
    for b, found in enumerate(peer.model.head.predict(output)):
        peer.check_detections(f"{at}/pred{b}", found, largest, 3 * place)
        assert found.tracks.tolist() == peer.output(f"{at}/pred{b}_tracks").tolist()


def test_five_frames(peer: Zoo3D) -> None:
    model, state = peer.model, peer.model.initial_state(2)
    given = [peer.stored(name) for name in ("lidar2img", "ego_pose", "timestamp")]
    with torch.no_grad(), ExitStack() as stack:
        inner = inner_outputs(model.head, stack)
        for t in range(5):
            at, pixels = f"frame{t}", images(peer, t)
            frame = model.frame(pixels, *(each[t] for each in given))
            levels = model.extract(pixels)
            for i, level in enumerate(levels):
                peer.check(f"{at}/feat{i}", level, 5e-4)
            past = model.head.instance_bank.recall(state, frame)
            peer.check(f"{at}/seconds", past.seconds, 0)
            if t:
                # Velocities are multiplied by the seconds since the last frame, here up to 420.
                peer.check(f"{at}/recalled", past.anchor, 420e-3 if t == 3 else BOUNDS[2])
            output, state = model.head(levels, frame, state)
            for name, value in inner.items():
                peer.check(f"{at}/{name}", value, 4 * BOUNDS[0])
            check_frame(peer, at, output, state)
