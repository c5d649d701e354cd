"""DETR3D beyond the goldens: unusual inputs, settings, errors."""

import warnings

import numpy as np
import pytest
import torch

from cupola.errors import InputError
from cupola.models.detr3d import GridMask, NMSFreeCoder
from cupola.models.detr3d.feature_sampling import Pyramid, gather_dense
from cupola.registry import build
from models.detr3d.small import small_batch, small_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(small_config()).eval()


def run(model, batch):
    with torch.no_grad():
        return model(batch["pixels"], batch["lidar2img"], batch["image_size"])


def total(model, batch) -> torch.Tensor:
    return sum(model.loss(batch).values())


def test_shapes(model) -> None:
    output = run(model, small_batch(samples=2))
    assert output.logits.shape == (2, 2, 12, 3)
    assert output.boxes.shape == (2, 2, 12, 10)


def test_a_batch_equals_its_samples_alone(model) -> None:
    both = small_batch(samples=2)
    together = run(model, both)
    for i in range(2):
        alone = {**both, "pixels": both["pixels"][i : i + 1], "lidar2img": both["lidar2img"][:1]}
        single = run(model, alone)
        torch.testing.assert_close(together.logits[:, i : i + 1], single.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.boxes[:, i : i + 1], single.boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cameras", [1, 3, 8])
@pytest.mark.parametrize("size", [(40, 72), (96, 33)])
def test_any_number_of_cameras_and_any_size(cameras: int, size: tuple[int, int]) -> None:
    model = build(small_config(cameras)).eval()
    batch = small_batch(cameras=cameras, size=size)
    output = run(model, batch)
    assert output.boxes.isfinite().all()
    total(model.train(), batch).backward()


def test_a_wrong_number_of_cameras_is_an_error(model) -> None:
    with pytest.raises(InputError, match=r"expects 6 cameras, got 5.*num_cams"):
        run(model, small_batch(cameras=5))


def test_a_sample_that_no_camera_sees(model) -> None:
    batch = small_batch()
    batch["lidar2img"] = batch["lidar2img"] * torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None]
    assert run(model, batch).logits.isfinite().all()
    total(model, batch).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_sample_without_ground_truth_has_a_loss(model) -> None:
    batch = small_batch()
    batch["targets"] = [{"boxes": torch.zeros(0, 9), "labels": torch.zeros(0, dtype=torch.long)}]
    losses = model.loss(batch)
    assert losses["loss_bbox"] == 0
    assert losses["loss_cls"] > 0
    sum(losses.values()).backward()


def test_a_broken_matrix_is_reported_and_its_camera_skipped(model) -> None:
    batch = small_batch()
    batch["lidar2img"][0, 2, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"not finite: camera 2 of sample 0 is skipped"):
        output = run(model, batch)
    assert output.logits.isfinite().all()
    away = small_batch()
    away["lidar2img"][0, 2, 2] *= -1  # turned around, so it sees none of the boxes
    away["lidar2img"][0, 2] = torch.eye(4) * torch.tensor([1.0, 1, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blind = run(model, away)
    torch.testing.assert_close(output.logits, blind.logits)


def test_first_sample_size_is_a_setting() -> None:
    sizes = torch.tensor([[64.0, 96.0], [32.0, 48.0]])
    for first in (True, False):
        torch.manual_seed(0)
        model = build({**small_config(), "first_sample_size": first}).eval()
        cameras = model.cameras(small_batch(samples=2)["lidar2img"], sizes)
        assert cameras.image_size[1].tolist() == ([64, 96] if first else [32, 48])


def test_the_weights_of_several_points_add_up() -> None:
    config = small_config(points=3)
    model = build(config).eval()
    attention = model.pts_bbox_head.transformer.decoder.layers[0].attentions[1]
    weights = attention.camera_weights(torch.zeros(1, 12, 16), 6)
    assert weights.shape == (1, 6, 12, 2)
    assert torch.allclose(weights, torch.full_like(weights, 1.5))


def test_without_refinement_the_references_stay(model) -> None:
    still = build(small_config(refine=False)).eval()
    batch = small_batch()
    cameras = still.cameras(batch["lidar2img"], batch["image_size"])
    decoded = still.pts_bbox_head.decode(still.extract(batch["pixels"]), cameras)
    assert decoded.regressions is None
    assert torch.equal(decoded.references[0], decoded.references[1])
    branches = still.pts_bbox_head.reg_branches
    assert branches[0] is branches[1]
    assert run(still, batch).boxes.shape == (2, 1, 12, 10)


def test_sparse_sampling_equals_dense_with_gradients(model) -> None:
    batch = small_batch(samples=2)
    levels = tuple(level.detach() for level in model.extract(batch["pixels"]))
    cameras = model.cameras(batch["lidar2img"], batch["image_size"])
    generator = torch.Generator().manual_seed(1)
    grads = []
    for gather in (lambda p, w, f: Pyramid(f).gather(p, w), lambda p, w, f: gather_dense(f, p, w)):
        points = (torch.rand(2, 50, 3, generator=generator.manual_seed(1)) - 0.5) * 40
        weights = torch.rand(2, 6, 50, 2, generator=generator)
        features = [level.clone().requires_grad_() for level in levels]
        leaves = [points.requires_grad_(), weights.requires_grad_(), *features]
        out = gather(cameras.project(points), weights, tuple(features))
        grads.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for sparse, dense in zip(*grads, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-4)


def test_both_ways_of_reading_agree(model) -> None:
    batch = small_batch(samples=2)
    levels = tuple(level.detach() for level in model.extract(batch["pixels"]))
    cameras = model.cameras(batch["lidar2img"], batch["image_size"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for queries in (1, 200):
            points = (torch.rand(2, queries, 3, generator=generator) - 0.5) * 40
            weights = torch.rand(2, 6, queries, 2, generator=generator)
            projection = cameras.project(points)
            pyramid = Pyramid(levels)
            straight = pyramid.gather(projection, weights)
            assert ("rows" in pyramid.__dict__) == (queries == 200)
            assert pyramid.rows.shape[1] == 16  # from here on the table exists, and is used
            torch.testing.assert_close(straight, pyramid.gather(projection, weights))


def test_inspect_returns_where_queries_sampled(model) -> None:
    batch = small_batch()
    seen = model.inspect(batch["pixels"], batch["lidar2img"], batch["image_size"])
    assert seen["references"].shape == (2, 12, 3)
    assert seen["uv"].shape == (2, 6, 12, 2)
    inside = seen["uv"][seen["visible"]]
    assert ((inside > 0) & (inside < 1)).all()
    torch.testing.assert_close(seen["logits"], run(model, batch).logits[-1, 0])


def test_two_stage_is_an_error() -> None:
    config = small_config()
    config["pts_bbox_head"]["as_two_stage"] = True
    with pytest.raises(ValueError, match="as_two_stage is not defined in 3-D"):
        build(config)


def test_the_loss_of_a_head_without_training_parts_is_an_error() -> None:
    config = small_config()
    del config["train_cfg"]
    with pytest.raises(ValueError, match="built without training parts"):
        build(config).loss(small_batch())


def test_images_of_the_wrong_rank_are_an_error(model) -> None:
    with pytest.raises(
        ValueError, match=r"images should be \[B, N, 3, H, W\], got \[6, 3, 64, 96\]"
    ):
        model(small_batch()["pixels"][0], small_batch()["lidar2img"], (64, 96))


def test_pc_range_is_checked() -> None:
    config = small_config()
    decoder = config["pts_bbox_head"]["transformer"]["decoder"]
    decoder["transformerlayers"]["attn_cfgs"][1]["pc_range"] = [0, 1]
    with pytest.raises(ValueError, match="pc_range is"):
        build(config)


def test_coder_filters_and_orders() -> None:
    coder = NMSFreeCoder(
        pc_range=[-1] * 6,
        post_center_range=[-10] * 3 + [10] * 3,
        max_num=3,
        num_classes=2,
        score_threshold=0.3,
    )
    logits = torch.tensor([[3.0, 2.0], [1.0, -5.0], [5.0, -1.0]])
    codes = torch.zeros(3, 10)
    codes[2, 0] = 50.0  # out of range
    found = coder.decode(logits, codes)
    assert found.labels.tolist() == [0, 1]
    assert found.queries.tolist() == [0, 0]
    assert found.boxes[0].tolist() == pytest.approx([0, 0, -0.5, 1, 1, 1, 0, 0, 0])
    assert len(found.above(0.9)) == 1
    assert found.to_list()[0]["name"] == "0"


def test_grid_mask_equals_the_original() -> None:
    images = torch.ones(2, 3, 40, 60)
    mask = GridMask(True, True, rotate=1, ratio=0.5, mode=1, prob=1.0)
    assert mask.eval()(images) is images
    np.random.seed(3)
    masked = mask.train()(images)
    np.random.seed(3)
    np.random.rand()
    period = np.random.randint(2, 40)
    row, column = np.random.randint(period), np.random.randint(period)
    stripe = min(max(int(period * 0.5 + 0.5), 1), period - 1)
    rows, columns = np.arange(40) + 10, np.arange(60) + 15  # the middle of 60 x 90
    blank = [
        (
            (at >= start)
            & ((at - start) % period < stripe)
            & ((at - start) // period < size // period)
        )
        for at, start, size in ((rows, row, 60), (columns, column, 90))
    ]
    expected = torch.from_numpy(blank[0][:, None] | blank[1][None]).float()
    assert torch.equal(masked, expected.expand_as(masked))


def test_training_uses_the_grid_mask() -> None:
    model = build({**small_config(), "use_grid_mask": True}).train()
    model.grid_mask.prob = 1.0
    assert total(model, small_batch()).isfinite()
