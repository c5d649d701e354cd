"""Sparse4D beyond the golden: streams, tracks, gaps, anchors, errors."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cupola
from cupola.errors import BuildError, InputError
from cupola.registry import build
from cupola.train.trainer import Trainer
from models.petr.small import poses
from models.sparse4d.small import drive, inputs, small_sparse4d

MISSING = "nuscenes_kmeans900.npy"


@pytest.fixture
def model() -> Any:
    return with_noise(small_sparse4d())


def with_noise(config: dict[str, Any]) -> Any:
    """In eval mode, with weights that are not those of the start, where many are zero."""
    torch.manual_seed(0)
    made = build(config).eval()
    for parameter in made.head.parameters():
        if parameter.requires_grad and parameter.dim() > 1 and parameter.shape[1] != 11:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return made


def run(model: Any, frames: list[dict[str, Any]], state: Any = None) -> tuple[list[Any], Any]:
    outputs = []
    with torch.no_grad():
        for frame in frames:
            output, state = model(**inputs(frame), state=state)
            outputs.append(output)
    return outputs, state


def test_the_past_changes_the_result_and_a_restart_forgets_it(model: Any) -> None:
    frames = drive(3)
    together, state = run(model, frames)
    (fresh,), _ = run(model, frames[2:])
    assert (together[2].logits - fresh.logits).abs().max() > 1e-3
    with torch.no_grad():
        again, _ = model(**inputs(frames[2]), state=state, prev_exists=torch.zeros(1))
    for name in ("logits", "boxes", "tracks"):
        torch.testing.assert_close(getattr(again, name), getattr(fresh, name))


def test_streams_of_a_batch_do_not_mix_even_if_one_begins(model: Any) -> None:
    both = drive(4, streams=2)
    _, state = run(model, both[:2])
    begins = torch.tensor([1.0, 0.0])
    with torch.no_grad():
        output, after = model(**inputs(both[2]), state=state, prev_exists=begins)
    _, first = run(model, [{**f, **inputs(f, 0)} for f in both[:2]])
    (alone,), _ = run(model, [{**both[2], **inputs(both[2], 0)}], first)
    (new,), _ = run(model, [{**both[2], **inputs(both[2], 1)}])
    for b, one in enumerate((alone, new)):
        torch.testing.assert_close(output.boxes[:, b], one.boxes[:, 0], rtol=0, atol=1e-4)
        assert output.tracks[b].tolist() == one.tracks[0].tolist()
    assert after.exists.tolist() == [1.0, 1.0]


def test_tracks_stay_and_new_ones_have_new_numbers(model: Any) -> None:
    outputs, state = run(model, drive(3))
    first, second = (set(each.tracks[0].tolist()) for each in outputs[:2])
    assert first == set(range(12)) and len(second) == 12
    assert len(first & second) == 6 and max(second) == 17  # six are kept, six are new
    assert int(state.next_track) == 24
    later = {**drive(4)[3]}
    later["timestamp"] = later["timestamp"] + 60.0
    (after,), _ = run(model, [later], state)
    assert sorted(after.tracks[0].tolist()) == list(range(24, 36))  # none outlives a minute
    model.head.decoder.score_threshold = 0.99
    (unsure,), _ = run(model, drive(1))
    assert unsure.tracks.unique().tolist() == [-1]
    assert len(model.head.predict(unsure)[0]) == 0


def test_the_fixed_frame_may_be_any(model: Any) -> None:
    frames, moved = drive(3), poses(40.0)[0]
    first, _ = run(model, frames)
    second, _ = run(model, [{**f, "ego_pose": moved @ f["ego_pose"]} for f in frames])
    torch.testing.assert_close(first[2].boxes, second[2].boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("temporal", [True, False])
def test_other_settings_of_the_published_classes_run(temporal: bool) -> None:
    config = small_sparse4d(decouple_attn=False)
    head, C = config["head"], 16
    head["graph_model"] = head["temp_graph_model"] = {**head["graph_model"], "embed_dims": C}
    head["anchor_encoder"] = {"type": "SparseBox3DEncoder", "embed_dims": C}
    head["deformable_model"] |= {"use_camera_embed": False, "residual_mode": "add"}
    head["ffn"] = {"type": "AsymmetricFFN", "embed_dims": C, "feedforward_channels": 32}
    head["refine_layer"] |= {"refine_yaw": False, "normalize_yaw": True}
    head["refine_layer"]["with_quality_estimation"] = False
    if not temporal:
        head |= {"temp_graph_model": None}
        head["instance_bank"] |= {"num_temp_instances": -1}
    outputs, state = run(with_noise(config), drive(2))
    assert outputs[1].quality is None and state.feature.shape == (1, 6 if temporal else 0, C)
    assert bool(state.exists) == temporal
    norm = outputs[1].boxes[-1, ..., 6:8].norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones_like(norm))


def test_anchors_without_their_file_are_spread_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_sparse4d()
    config["head"]["instance_bank"] |= {"anchor": MISSING, "num_anchor": 30}
    caplog.set_level(logging.WARNING)
    anchors = build(config).head.instance_bank.anchor
    assert f"there is no file {MISSING}; the anchors are spread evenly" in caplog.text
    assert anchors.shape == (30, 11) and anchors[:, :2].norm(dim=1).max() < 55
    caplog.clear()
    state = build(small_sparse4d()).state_dict()
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    config["head"]["instance_bank"] |= {"num_anchor": 12}
    loaded = cupola.build(config, weights=tmp_path / "weights.pth")
    assert caplog.text == ""  # a checkpoint has its own
    assert torch.equal(loaded.head.instance_bank.anchor, state["head.instance_bank.anchor"])
    np.save(tmp_path / MISSING, np.ones((20, 11)))
    assert build(config).head.instance_bank.anchor.eq(1).all()
    np.save(tmp_path / MISSING, np.ones((20, 10)))
    with pytest.raises(BuildError, match=r"boxes of 11 numbers each, got \[20, 10\]"):
        build(config)
    (tmp_path / MISSING).write_text("no array")
    with pytest.raises(BuildError, match="cannot be read"):
        build(config)


def test_what_does_not_fit_is_refused(model: Any) -> None:
    (frame,) = drive(1)
    with pytest.raises(InputError, match=r"needs timestamp \[1\], got nothing"):
        model(**{**inputs(frame), "timestamp": None})
    with pytest.raises(InputError, match="state is of 2 streams, the batch of 1"):
        model(**inputs(frame), state=model.initial_state(2))
    with pytest.raises(BuildError, match="training Sparse4D is not included: its losses are"):
        model.loss(frame)
    with pytest.raises(BuildError, match="or train StreamPETR"):
        sections = {key: {} for key in ("train_dataloader", "optim_wrapper", "train_cfg")}
        Trainer({"model": small_sparse4d(), **sections}, Path("unused"), quiet=True)
    for changes, text in (
        ({"operation_order": ["gnn", "norm"]}, "end with refine"),
        ({"operation_order": ["look", "refine"]}, "should hold temp_gnn, gnn"),
    ):
        with pytest.raises(BuildError, match=text):
            build(small_sparse4d(**changes))
    config = small_sparse4d()
    config["head"]["instance_bank"] |= {"num_temp_instances": 13}
    with pytest.raises(BuildError, match="num_temp_instances is 13, but there are 12 anchors"):
        build(config)
