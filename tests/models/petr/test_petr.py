"""PETR and PETRv2 beyond the goldens: unusual inputs, settings, streams, errors."""

import math

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.models.petr.position import depth_bins, invert_cameras
from cupola.registry import build
from cupola.structures import boxes3d
from models.detr3d.small import small_batch
from models.petr.small import poses, small_petr

TEMPORAL = {"with_fpe": True, "with_time": True, "with_multi": True}


def made(kind: str = "PETR", head: str = "PETRHead", **settings):
    torch.manual_seed(0)
    return build(small_petr(kind, head, **settings)).eval()


@torch.no_grad()
def test_padding_has_no_effect_on_the_result_but_its_cells() -> None:
    model, batch = made(), small_batch(samples=2)
    whole = model(batch["pixels"], batch["lidar2img"])
    same = model(batch["pixels"], batch["lidar2img"], (64, 96))
    assert torch.equal(whole.logits, same.logits)
    sizes = torch.tensor([[48, 80], [64, 96]])
    padded = model(batch["pixels"], batch["lidar2img"], sizes)
    torch.testing.assert_close(padded.logits[:, 1], whole.logits[:, 1], rtol=0, atol=1e-5)
    assert (padded.logits[:, 0] - whole.logits[:, 0]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("cameras", [1, 5])
@pytest.mark.parametrize("multiview", [True, False])
def test_any_number_of_cameras_and_each_encoding(cameras: int, multiview: bool) -> None:
    encoding = {
        "type": "SinePositionalEncoding3D" if multiview else "SinePositionalEncoding",
        "num_feats": 8,
        "normalize": True,
    }
    for position in (True, False):
        model = made(with_multiview=multiview, with_position=position, positional_encoding=encoding)
        batch = small_batch(cameras=cameras, size=(40, 72))
        output = model(batch["pixels"], batch["lidar2img"])
        assert output.logits.shape == (2, 1, 12, 3)
        assert output.boxes.shape == (2, 1, 12, 10)


def test_the_three_spellings_differ_in_the_angle_and_the_order_of_the_sides() -> None:
    box = torch.tensor([[1.0, 2.0, 0.5, 4.0, 2.0, 1.5, 0.3, 1.0, 2.0]])
    codes = {
        "mmdet3d": made().pts_bbox_head.box_code.encode(box),
        "megvii": made("Petr3D").pts_bbox_head.box_code.encode(box),
        "old": made("Petr3D", old_boxes=True).pts_bbox_head.box_code.encode(box),
    }
    turned = -0.3 - math.pi / 2
    assert codes["megvii"][0, 6].item() == pytest.approx(math.sin(0.3))
    assert codes["mmdet3d"][0, 6].item() == pytest.approx(math.sin(turned))
    assert codes["mmdet3d"][0, 2].item() == pytest.approx(math.log(4))
    assert codes["old"][0, 2].item() == pytest.approx(math.log(2))
    assert codes["old"][0, 6].item() == pytest.approx(math.sin(turned))


@pytest.mark.parametrize("center_first", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("width_first", [True, False])
def test_a_code_decodes_to_its_box(center_first: bool, turned: bool, width_first: bool) -> None:
    code = boxes3d.BoxCode(center_first, turned, width_first)
    box = torch.tensor([[1.0, 2.0, 0.5, 4.0, 2.0, 1.5, 2.9, 1.0, 2.0]])
    encoded = code.encode(box)
    assert encoded[0, code.z] == 0.5
    torch.testing.assert_close(code.decode(encoded), box)


def test_depths_and_inverses() -> None:
    assert depth_bins(1, 61.2, 64, True)[:3].tolist() == pytest.approx([1, 1.0289424, 1.0868269])
    assert depth_bins(1, 61, 60, False)[:3].tolist() == pytest.approx([1, 2, 3])
    matrices = small_batch()["lidar2img"].double()
    torch.testing.assert_close(invert_cameras(matrices), torch.linalg.inv(matrices))


def test_every_parameter_learns() -> None:
    model, batch = made("PETR").train(), small_batch(samples=2)
    sum(model.loss(batch).values()).backward()
    frozen = {"pts_bbox_head.code_weights"}
    for name, parameter in model.named_parameters():
        if name not in frozen and "lateral_convs.1" not in name:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_a_stream_equals_pairs_of_frames() -> None:
    model = made("Petr3D", "PETRv2Head", **TEMPORAL)
    assert type(model).__name__ == "PETRv2"
    first, second = small_batch()["pixels"], small_batch(size=(64, 96))["pixels"].flip(-1)
    lidar2img = small_batch()["lidar2img"]
    ego, times = poses(0, 5), torch.tensor([100.0, 100.5], dtype=torch.float64)
    state = model.initial_state(1)
    alone, state = model(first, lidar2img, ego_pose=ego[:1], timestamp=times[:1], state=state)
    paired, state = model(second, lidar2img, ego_pose=ego[1:], timestamp=times[1:], state=state)
    assert state.timestamp.tolist() == [[100.5, 100.0]]
    move = torch.linalg.inv(ego[0]) @ ego[1]
    both = model(
        torch.cat((second, first), 1),
        torch.cat((lidar2img.double(), lidar2img.double() @ move), 1),
        ages=torch.tensor([[0.0] * 6 + [0.5] * 6]),
    )
    torch.testing.assert_close(paired.logits, both.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(paired.boxes, both.boxes, rtol=0, atol=1e-3)
    itself = model(
        torch.cat((first, first), 1),
        torch.cat((lidar2img, lidar2img), 1),
        ages=torch.tensor([[0.0] * 6 + [model.sweep_seconds] * 6]),
    )
    torch.testing.assert_close(alone.boxes, itself.boxes, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_stream_keeps_the_frames_it_needs() -> None:
    model = made("Petr3D", "PETRv2Head", **TEMPORAL)
    batch, state = small_batch(), model.initial_state(1)
    for step in range(12):
        now = torch.tensor([10 + 0.25 * step], dtype=torch.float64)
        _, state = model(
            batch["pixels"],
            batch["lidar2img"],
            ego_pose=poses(step),
            timestamp=now,
            state=state,
        )
    ages = (state.timestamp[:, :1] - state.timestamp)[0]
    assert ages.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.25])


def test_petrv2_with_denoising_has_its_losses_in_training_only() -> None:
    noise = {"scalar": 3, "noise_scale": 1.0, "split": 0.75}
    model = made("Petr3D", "PETRv2DNHead", **TEMPORAL, **noise).train()
    batch = small_batch(samples=2)
    for name in ("pixels", "lidar2img"):
        batch[name] = torch.cat((batch[name], batch[name]), 1)
    batch["ages"] = torch.tensor([[0.0] * 6 + [0.5] * 6]).expand(2, -1)
    losses = model.loss(batch)
    kinds = {f"{kind}loss_{of}" for kind in ("", "dn_") for of in ("cls", "bbox")}
    assert losses.keys() == kinds | {f"d0.{kind}" for kind in kinds}
    sum(losses.values()).backward()
    empty = {"boxes": torch.zeros(0, 9), "labels": torch.zeros(0, dtype=torch.long)}
    nothing = model.loss({**batch, "targets": [empty, empty]})
    assert nothing.keys() == losses.keys() and not nothing["dn_loss_cls"].requires_grad
    assert not any("dn" in name for name in model.eval().loss(batch))


def test_errors() -> None:
    model, batch = made(), small_batch()
    with pytest.raises(InputError, match=r"lidar2img should be \[1, 6, 4, 4\], one matrix per"):
        model(batch["pixels"], batch["lidar2img"][:, :5])
    with pytest.raises(
        BuildError, match=r"pretrained should be a dict with .* `img`, got 'x\.pth'"
    ):
        build({**small_petr(), "pretrained": "x.pth"})
    with pytest.raises(BuildError, match=r"pts_bbox_head is a PETRHeed, .*did you mean"):
        made("Petr3D", "PETRHeed")
    temporal = made("Petr3D", "PETRv2Head", **TEMPORAL)
    with pytest.raises(InputError, match="needs the times of its images"):
        temporal(batch["pixels"], batch["lidar2img"])
    with pytest.raises(InputError, match="needs ego_pose"):
        temporal(batch["pixels"], batch["lidar2img"], state=temporal.initial_state(1))


@pytest.fixture(scope="module")
def streets() -> dict:
    """Two generated streets; the classes of the small models are three."""
    from cupola.data.driving_scenes import DrivingScenes

    scenes = DrivingScenes(size=(32, 64))
    batch = scenes.collate([scenes[i] for i in range(2)])
    for target in batch["targets"]:
        target["labels"] = target["labels"].clamp(max=2)
    return batch


@pytest.mark.parametrize(
    "kind", ["petr", pytest.param("petrv2", marks=pytest.mark.slow), "stream_petr"]
)
def test_training_on_driving_scenes_improves(kind: str, streets: dict) -> None:
    from models.stream_petr.small import small_stream

    torch.manual_seed(0)
    configs = {
        "petr": small_petr(),
        "petrv2": small_petr("Petr3D", "PETRv2Head", **TEMPORAL),
        "stream_petr": small_stream(),
    }
    model = build(configs[kind]).train()
    batch = dict(streets)
    if kind == "petrv2":
        for name in ("pixels", "lidar2img"):
            batch[name] = torch.cat((batch[name], batch[name]), 1)
        batch["ages"] = torch.tensor([[0.0] * 6 + [0.5] * 6]).expand(2, -1)
    if kind == "stream_petr":
        batch["intrinsics"] = torch.eye(4).repeat(2, 6, 1, 1) * 40
        batch["ego_pose"] = torch.eye(4).repeat(2, 1, 1)
        batch["timestamp"] = torch.zeros(2, dtype=torch.float64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 4e-3)
    totals = []
    for _ in range(20):
        total = sum(model.loss(batch).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-3:]) < 0.88 * sum(totals[:3])
