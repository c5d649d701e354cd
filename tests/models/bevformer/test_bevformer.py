"""BEVFormer beyond the golden: streams, clips, the turned grid, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from cupola.errors import BuildError, InputError
from cupola.models.bevformer.inspection import picture_of
from cupola.models.bevformer.motion import rotate_grid
from cupola.models.layers import LearnedPositionalEncoding
from cupola.registry import build
from models.bevformer.small import can_bus, drive, inputs, small_bevformer


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = build(small_bevformer()).eval()
    for parameter in made.pts_bbox_head.parameters():  # attentions start with equal weights
        if parameter.requires_grad and parameter.dim() > 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
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
    before = state.bev.clone()
    with torch.no_grad():
        again, _ = model(**inputs(frames[2]), state=state, prev_exists=torch.zeros(1))
    torch.testing.assert_close(again.logits, fresh.logits)
    torch.testing.assert_close(again.boxes, fresh.boxes)
    assert torch.equal(state.bev, before)  # nothing is written into a state
    assert state.exists.tolist() == [1.0] and state.angle.tolist() == [110.0]


def test_only_the_motion_since_the_last_frame_counts(model) -> None:
    frames = drive(2)
    moved = [{**f, "can_bus": f["can_bus"] + torch.eye(18)[0].double() * 5000} for f in frames]
    (_, first), _ = run(model, frames)
    (_, second), _ = run(model, moved)
    torch.testing.assert_close(first.boxes, second.boxes)
    still = [frames[0], {**frames[1], "can_bus": frames[0]["can_bus"]}]
    (_, third), _ = run(model, still)
    assert (first.logits - third.logits).abs().max() > 1e-3


def test_without_video_test_mode_every_frame_is_the_first(model) -> None:
    frames = drive(2)
    model.video_test_mode = False
    (_, second), _ = run(model, frames)
    (fresh,), _ = run(model, frames[1:])
    torch.testing.assert_close(second.logits, fresh.logits)


def test_streams_with_and_without_a_past_in_one_batch(model) -> None:
    frames = drive(2, streams=2)
    _, state = run(model, frames[:1])
    with torch.no_grad():
        both, _ = model(**inputs(frames[1]), state=state, prev_exists=torch.tensor([0.0, 0.0]))
        none, _ = model(**inputs(frames[1]))
    torch.testing.assert_close(both.logits, none.logits)


def test_predictions_do_not_depend_on_the_other_samples(model) -> None:
    both = drive(1, streams=2)[0]
    with torch.no_grad():
        together = model.predict(both)
        for b, found in enumerate(together):
            one = {name: value[b : b + 1] for name, value in inputs(both).items()}
            (alone,) = model.predict({**one, "image_size": both["image_size"]})
            torch.testing.assert_close(alone.scores, found.scores)
            torch.testing.assert_close(alone.boxes, found.boxes)


def test_a_training_follows_its_streams_and_takes_poses(model) -> None:
    frames = drive(2, streams=2)
    poses = torch.eye(4, dtype=torch.float64).expand(2, 4, 4).clone()
    poses[:, 1, 3] = 4.0
    exists = torch.tensor([1.0, 1.0])
    first = {k: v for k, v in frames[0].items() if k != "can_bus"} | {"ego_pose": poses}
    model.loss({**first, "prev_exists": exists * 0})
    kept = model.training_state
    assert kept.position[:, 1].tolist() == [4.0, 4.0] and kept.angle.tolist() == [90.0, 90.0]
    assert not kept.bev.requires_grad
    follows = model.loss({**frames[1], "prev_exists": exists})
    assert model.training_state.exists.tolist() == [1, 1] and model.training_state is not kept
    model.training_state = None
    alone = model.loss({**frames[1], "prev_exists": exists})
    assert (follows["loss_cls"] - alone["loss_cls"]).abs() > 1e-6


def test_streams_side_by_side_are_those_alone(model) -> None:
    both, state = drive(2, streams=2), model.initial_state(2)
    singles = [model.initial_state(1), model.initial_state(1)]
    with torch.no_grad():
        for frame in both:
            together, state = model.predict_frame(frame, state)
            for b in (0, 1):
                one = {name: value[b : b + 1] for name, value in inputs(frame).items()}
                (alone,), singles[b] = model.predict_frame(one, singles[b])
                torch.testing.assert_close(alone.boxes, together[b].boxes)
                torch.testing.assert_close(singles[b].bev, state.bev[b : b + 1])


def clip(count: int, streams: int = 2) -> dict:
    frames = drive(count, streams)
    joined = {name: torch.stack([f[name] for f in frames], 1) for name in inputs(frames[0])}
    targets = [[f["targets"][b] for f in frames] for b in range(streams)]
    return {**joined, "image_size": frames[0]["image_size"], "targets": targets}


def test_a_clip_has_the_losses_of_its_last_frame_with_a_past_without_gradients(model) -> None:
    batch = clip(3)
    batch["pixels"].requires_grad_()
    losses = model.train().loss(batch)
    assert model.training and model.pts_bbox_head.training
    assert losses.keys() == {"loss_cls", "loss_bbox", "d0.loss_cls", "d0.loss_bbox"}
    sum(losses.values()).backward()
    gradient = batch["pixels"].grad
    assert gradient[:, :2].abs().max() == 0 and gradient[:, 2].abs().max() > 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "bev_h" not in name:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_clip_is_its_frames_one_after_the_other(model) -> None:
    batch, frames = clip(3, streams=1), drive(3)
    outputs, _ = run(model, frames)
    with torch.no_grad():
        (found,) = model.predict(batch)
        wanted = model.pts_bbox_head.predict(outputs[2])[0]
        torch.testing.assert_close(found.scores, wanted.scores)
        cut = {**batch, "prev_exists": torch.tensor([[0.0, 1.0, 0.0]])}
        (fresh,), _ = run(model, frames[2:])
        (found,) = model.predict(cut)
        torch.testing.assert_close(found.scores, model.pts_bbox_head.predict(fresh)[0].scores)


@pytest.mark.parametrize(
    ("size", "center"), [((50, 50), (100.0, 100.0)), ((10, 8), (4.0, 5.0)), ((7, 12), (0.0, 3.0))]
)
def test_the_turned_grid_is_that_of_an_image_library(size, center) -> None:
    rows, columns = size
    grid = torch.randn(3, rows * columns, 4)
    degrees = torch.tensor([0.0, 7.3, -191.0], dtype=torch.float64)
    found = rotate_grid(grid, size, degrees, center)
    picture = grid.view(3, rows, columns, 4).permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    for b, angle in enumerate(degrees.tolist()):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        dx, dy = x - center[0], y - center[1]  # y points down in an image
        where = torch.stack((center[0] + c * dx - s * dy, center[1] + s * dx + c * dy), -1)
        where = where / torch.tensor([columns, rows]) * 2 - 1
        wanted = F.grid_sample(picture[b : b + 1], where[None], "nearest", align_corners=False)
        wanted = wanted[0].permute(1, 2, 0).flatten(0, 1)
        torch.testing.assert_close(found[b], wanted)
    assert torch.equal(found[0], grid[0])


def test_what_is_missing_is_named(model) -> None:
    frame = inputs(drive(1)[0])
    with pytest.raises(InputError, match=r"needs can_bus \[1, 18\], got nothing"):
        model(frame["pixels"], frame["lidar2img"])
    with pytest.raises(InputError, match=r"needs can_bus \[1, 18\], got \[1, 4\]"):
        model(**{**frame, "can_bus": torch.zeros(1, 4)})
    with pytest.raises(InputError, match=r"lidar2img should be \[1, 6, 4, 4\].*got \[6, 4, 4\]"):
        model(**{**frame, "lidar2img": frame["lidar2img"][0]})
    five = {name: value[:, :5] for name, value in frame.items()}
    with pytest.raises(InputError, match=r"the model has 6 cameras \(num_cams\), got 5"):
        model(**{**five, "can_bus": frame["can_bus"]})
    with pytest.raises(InputError, match="the state is of 2 streams, the batch of 1"):
        model(**frame, state=model.initial_state(2))


def changed(change) -> dict:
    config = small_bevformer()
    change(config["pts_bbox_head"])
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head.update(as_two_stage=True), "as_two_stage is not defined"),
        (lambda head: head.pop("positional_encoding"), "needs positional_encoding"),
        (lambda head: head["positional_encoding"].update(row_num_embed=4), "10 x 8 cells needs"),
        (lambda head: head["transformer"]["encoder"].update(pc_range=[0, 1]), "pc_range is"),
        (
            lambda head: head["transformer"]["encoder"].update(return_intermediate=True),
            "return_intermediate=True is not supported",
        ),
        (
            lambda head: head["transformer"]["encoder"]["transformerlayers"].update(
                operation_order=("self_attn", "norm", "ffn", "norm")
            ),
            "operation_order has six steps",
        ),
        (
            lambda head: head["transformer"]["encoder"]["transformerlayers"]["attn_cfgs"][0].update(
                num_levels=4
            ),
            "set num_levels=1",
        ),
        (
            lambda head: head["transformer"]["encoder"]["transformerlayers"]["attn_cfgs"][1][
                "deformable_attention"
            ].update(num_points=5),
            "has 5 points for 2 heights",
        ),
    ],
)
def test_configs_that_cannot_work_are_refused(change, message) -> None:
    with pytest.raises(BuildError, match=message):
        build(changed(change))


def test_a_learned_encoding_has_columns_first_and_bounds() -> None:
    encoding = LearnedPositionalEncoding(2, row_num_embed=3, col_num_embed=4)
    found = encoding(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert found.shape == (2, 4, 3, 4)
    assert torch.equal(found[1, :2, 2, 3], encoding.col_embed.weight[3])
    assert torch.equal(found[0, 2:, 2, 3], encoding.row_embed.weight[2])
    with pytest.raises(ValueError, match="3 rows and 4 columns, too few for a map of 5 x 4"):
        encoding(torch.zeros(1, 5, 4, dtype=torch.bool))


def test_the_heading_turns_by_what_the_vehicle_turned() -> None:
    assert can_bus(1.0)[17] - can_bus(0.0)[17] == 10


def test_the_picture_of_the_grid_shows_its_main_components_with_the_front_on_top() -> None:
    bev = torch.randn(12, 5) * 0.01
    bev[8:] += torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0])  # the last of three rows
    picture = picture_of(bev, (3, 4))
    assert picture.shape == (3, 4, 3) and picture.dtype == torch.uint8
    assert picture[0, :, 0].min() > 200 and picture[1:, :, 0].max() < 50
