"""StreamPETR beyond the goldens: streams, clips, denoising, errors."""

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.models.petr.denoising import Noise, make_noisy_queries
from cupola.models.stream_petr.memory import invert_pose
from cupola.registry import build
from models.petr.small import PC_RANGE, poses
from models.stream_petr.small import drive, inputs, small_stream


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = build(small_stream()).eval()
    for parameter in made.pts_bbox_head.parameters():  # MLN starts as the identity
        if parameter.requires_grad and parameter.dim() > 1:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made


def run(model, frames, state=None):
    outputs = []
    with torch.no_grad():
        for frame in frames:
            output, state = model(**inputs(frame), state=state)
            outputs.append(output)
    return outputs, state


def test_the_past_changes_the_result_and_a_restart_forgets_it(model) -> None:
    frames = drive(3)
    together, state = run(model, frames)
    (fresh,), _ = run(model, frames[2:])
    assert (together[2].logits - fresh.logits).abs().max() > 1e-3
    with torch.no_grad():
        again, _ = model(**inputs(frames[2]), state=state, prev_exists=torch.zeros(1))
    torch.testing.assert_close(again.logits, fresh.logits)
    torch.testing.assert_close(again.boxes, fresh.boxes)


def test_streams_of_a_batch_do_not_mix(model) -> None:
    both = drive(3, streams=2)
    together, _ = run(model, both)
    alone, _ = run(model, [{**f, **{k: v[1:] for k, v in inputs(f).items()}} for f in both])
    torch.testing.assert_close(together[2].boxes[:, 1:], alone[2].boxes, rtol=0, atol=1e-3)


def test_the_fixed_frame_may_be_any(model) -> None:
    frames = drive(3)
    moved = poses(40.0)[0]
    others = [{**f, "ego_pose": moved @ f["ego_pose"]} for f in frames]
    first, _ = run(model, frames)
    second, _ = run(model, others)
    torch.testing.assert_close(first[2].boxes, second[2].boxes, rtol=0, atol=5e-3)


def test_the_state_is_bounded(model) -> None:
    _, state = run(model, drive(5))
    assert state.embedding.shape == (1, 14, 16)
    assert state.exists.tolist() == [1.0]
    torch.testing.assert_close(invert_pose(poses(3.0)), torch.linalg.inv(poses(3.0)))


def clip(count: int, streams: int = 2) -> dict:
    frames = drive(count, streams)
    names = ("pixels", "lidar2img", "intrinsics", "ego_pose", "timestamp")
    joined = {name: torch.stack([f[name] for f in frames], 1) for name in names}
    return {**joined, "targets": [[f["targets"][b] for f in frames] for b in range(streams)]}


def test_a_clip_has_losses_of_its_last_frames_with_denoising(model) -> None:
    model.num_frame_losses = model.num_frame_head_grads = model.num_frame_backbone_grads = 2
    losses = model.train().loss(clip(3))
    names = {name.removeprefix("frame_1_") for name in losses if name.startswith("frame_1_")}
    assert names == {f"{layer}{kind}loss_{of}" for layer in ("", "d0.") for kind in ("", "dn_")
                     for of in ("cls", "bbox")}  # fmt: skip
    assert not any(name.startswith("frame_0") for name in losses)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lateral_convs.1" not in name:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_batch_without_objects_has_the_losses_of_denoising_detached(model) -> None:
    batch = drive(1)[0]
    batch["targets"] = [{"boxes": torch.zeros(0, 9), "labels": torch.zeros(0, dtype=torch.long)}]
    losses = model.train().loss(batch)
    assert losses["dn_loss_cls"] == losses["loss_cls"] > 0
    assert losses["d0.dn_loss_bbox"] == 0
    assert losses["loss_cls"].requires_grad and not losses["dn_loss_cls"].requires_grad
    model.pts_bbox_head.with_dn = False
    assert not any("dn" in name for name in model.loss(batch))


def test_losses_of_denoising_are_divided_by_the_mean_over_ranks(model, monkeypatch) -> None:
    head, batch, counts = model.train().pts_bbox_head, drive(1)[0], []
    monkeypatch.setattr(head, "sync_cls_avg_factor", True)
    monkeypatch.setattr("cupola.models.set_prediction.mean_over_ranks", lambda value, group: value)

    def twice(value, group):
        counts.append(group)
        return value * 2

    losses = []
    for mean in (lambda value, group: value, twice):
        monkeypatch.setattr("cupola.models.petr.denoising.mean_over_ranks", mean)
        torch.manual_seed(0)
        losses.append(model.loss(batch))
    alone, shared = losses
    assert counts == [head.data_group] * 4
    torch.testing.assert_close(shared["dn_loss_bbox"], alone["dn_loss_bbox"] / 2)
    assert shared["dn_loss_cls"] < alone["dn_loss_cls"] and shared["loss_cls"] == alone["loss_cls"]


def test_a_clip_s_first_frames_are_seen_in_eval_mode_and_a_new_drive_forgets_them(model) -> None:
    model.num_frame_losses = model.num_frame_head_grads = model.num_frame_backbone_grads = 1
    model.train()

    def losses(batch: dict) -> dict:
        torch.manual_seed(0)  # of the noisy queries and of dropout
        return model.loss(batch)

    whole = clip(3)
    last = {name: value[:, 2:] for name, value in whole.items() if name != "targets"}
    alone = losses({**last, "targets": [each[2:] for each in whole["targets"]]})
    follows = torch.tensor([[0.0, 1.0, 0.0]] * 2)
    new = losses({**whole, "prev_exists": follows})
    for name, value in alone.items():
        torch.testing.assert_close(new[name.replace("frame_0", "frame_2")], value)
    known = losses({**whole, "prev_exists": torch.tensor([[0.0, 1.0, 1.0]] * 2)})
    for name, value in losses(whole).items():
        torch.testing.assert_close(known[name], value)
    assert known["frame_2_loss_cls"] != new["frame_2_loss_cls"]
    assert model.training


def test_noisy_queries_are_copies_in_groups_that_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    labels = [torch.tensor([1, 2]), torch.tensor([0])]
    box = torch.tensor([5.0, 8.0, 0.0, 4.0, 2.0, 1.5, 0.3, 1.0, 0.0])
    boxes = [box.repeat(2, 1), box.repeat(1, 1)]
    limits = torch.tensor(PC_RANGE)
    noisy = make_noisy_queries(labels, boxes, Noise(3, 1.0, 0.0, 0.75), 3, limits)
    assert noisy is not None and noisy.references.shape == (2, 6, 3)
    assert noisy.references[1, 1::2].abs().sum() == 0  # the second sample has one object
    found = noisy.references[noisy.sample, noisy.index] * (limits[3:] - limits[:3]) + limits[:3]
    away = (found - box[:3]).abs() / (box[3:6] / 2)
    assert away.max() <= 1 + 1e-4
    background = away.norm(dim=1) > 0.75
    assert torch.equal(noisy.labels == 3, background)
    mask = noisy.mask(queries=4, propagated=2, memory=5)
    assert mask.shape == (12, 15)
    assert mask[6:, :6].all() and not mask[:, 6:].any()
    assert mask[:2, :6].tolist() == [[False] * 2 + [True] * 4] * 2
    assert make_noisy_queries([labels[0][:0]], [boxes[0][:0]], Noise(3, 1, 0, 1), 3, limits) is None


def test_a_clip_without_objects_has_losses(model) -> None:
    batch = clip(2)
    nothing = {"boxes": torch.zeros(0, 9), "labels": torch.zeros(0, dtype=torch.long)}
    batch["targets"] = [[nothing] * 2] * 2
    assert all(value.isfinite() for value in model.train().loss(batch).values())


def test_a_head_of_single_frames_has_no_memory_and_no_time() -> None:
    config = small_stream()
    head = config["pts_bbox_head"]
    for key in ("memory_len", "topk_proposals", "num_propagated", "match_with_velo"):
        del head[key]
    torch.manual_seed(0)
    single = build({**config, "pts_bbox_head": {**head, "type": "PETRHeadDN"}}).eval()
    memory = {"memory_len": 0, "topk_proposals": 0, "num_propagated": 0, "with_ego_pos": False}
    peer = build({**config, "pts_bbox_head": {**head, **memory}}).eval()
    missing = peer.load_state_dict(single.state_dict(), strict=False).missing_keys
    assert {key.split(".")[1] for key in missing} == {"time_embedding"}
    for parameter in peer.pts_bbox_head.time_embedding.parameters():
        torch.nn.init.zeros_(parameter)
    first, second = (inputs(frame) for frame in drive(2))
    with torch.no_grad():
        output, state = single(**first)
        torch.testing.assert_close(output.boxes, peer(**first)[0].boxes)
        assert torch.equal(single(**second, state=state)[0].logits, single(**second)[0].logits)
    losses = single.train().loss(drive(1)[0])
    assert {"loss_cls", "d0.loss_bbox", "dn_loss_cls", "d0.dn_loss_bbox"} <= losses.keys()
    sum(losses.values()).backward()


def test_errors(model) -> None:
    frame = inputs(drive(1)[0])
    with pytest.raises(InputError, match=r"a frame of a stream needs intrinsics \[1, 6, 4, 4\]"):
        model(**{**frame, "intrinsics": None})
    with pytest.raises(InputError, match=r"needs timestamp \[1\], got \[2\]"):
        model(**{**frame, "timestamp": torch.zeros(2)})
    with pytest.raises(BuildError, match=r"topk_proposals is 40, but there are 16 queries"):
        build(small_stream(topk_proposals=40))
    with pytest.raises(BuildError, match=r"num_propagated is 11, expected 0 to memory_len"):
        build(small_stream(num_propagated=11))


def test_poses_of_scaled_scenes_are_inverted() -> None:
    pose = poses(0.0, 1.0) @ torch.diag(torch.tensor([1.05, 1.05, 1.05, 1.0]).double())
    eye = torch.eye(4).double().expand(2, 4, 4)
    torch.testing.assert_close(invert_pose(pose) @ pose, eye)
