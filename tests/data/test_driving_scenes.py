"""The scene generator: geometry, determinism, mirroring, motion."""

import numpy as np
import pytest
import torch

from cupola.data.driving import CAMERA_NAMES, SceneStyle, camera_rig, make_scene, render
from cupola.data.driving_scenes import DrivingScenes
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures import boxes3d

SIZE = (48, 80)


@pytest.fixture(scope="module")
def scenes() -> DrivingScenes:
    return DATASETS.build({"type": "DrivingScenes", "split": "val", "size": SIZE})


def test_a_sample_is_a_function_of_seed_split_and_index(scenes: DrivingScenes) -> None:
    again = DrivingScenes(split="val", size=SIZE)
    assert torch.equal(scenes[7]["images"], again[7]["images"])
    assert not torch.equal(scenes[7]["images"], scenes[8]["images"])
    train = DrivingScenes(split="train", size=SIZE)
    assert not torch.equal(train[7]["images"], scenes[7]["images"])


def test_boxes_project_onto_the_pixels_of_their_agents() -> None:
    rng = np.random.default_rng(5)
    scene, rig = make_scene(rng), camera_rig((96, 160), rng)
    checked = 0
    for camera in rig:
        view = render(scene, camera, (96, 160))
        for index, agent in enumerate(scene.agents):
            rows, columns = np.nonzero(view.owner == index)
            if len(rows) < 4:
                continue
            box = boxes3d.bottom_to_center(torch.from_numpy(agent.box)[None])
            corners, depth = boxes3d.project(
                boxes3d.corners(box)[0], torch.from_numpy(camera.lidar2img)
            )
            if (depth < 0.2).any():
                continue
            low, high = corners.min(0).values, corners.max(0).values
            assert columns.min() + 1 >= low[0] and columns.max() <= high[0]
            assert rows.min() + 1 >= low[1] and rows.max() <= high[1]
            checked += 1
    assert checked >= 4


def test_near_objects_occlude_far_ones() -> None:
    rng = np.random.default_rng(0)
    scene = make_scene(rng, SceneStyle(fewest=12, most=12))
    for camera in camera_rig(SIZE):
        view = render(scene, camera, SIZE)
        for index in np.unique(view.owner[view.owner >= 0]):
            agent = scene.agents[index]
            pixels, depth = camera.project(agent.position + np.array([0, 0, agent.size[2] / 2]))
            column, row = int(pixels[0]), int(pixels[1])
            if depth > 1 and 0 <= column < SIZE[1] and 0 <= row < SIZE[0]:
                there = view.owner[row, column]
                if there not in (-1, index):
                    other = scene.agents[there]
                    near = np.linalg.norm(other.position[:2]) - other.radius
                    assert near < np.linalg.norm(agent.position[:2])


def test_mirrored_samples_are_consistent() -> None:
    plain = DrivingScenes(split="val", size=(96, 160))
    mirror = DrivingScenes(split="val", size=(96, 160), mirror=True)
    mirror.set_epoch(1)
    a, b = plain[0], mirror[0]
    right, left = CAMERA_NAMES.index("CAM_FRONT_RIGHT"), CAMERA_NAMES.index("CAM_FRONT_LEFT")
    assert torch.equal(a["images"][left].flip(-1), b["images"][right])
    center_a, center_b = (boxes3d.bottom_to_center(s["boxes"])[:, :3] for s in (a, b))
    pixels_a, depth_a = boxes3d.project(center_a, a["lidar2img"][left])
    pixels_b, depth_b = boxes3d.project(center_b, b["lidar2img"][right])
    torch.testing.assert_close(depth_a, depth_b, atol=1e-3, rtol=0)
    front = depth_a > 1
    torch.testing.assert_close(160 - pixels_a[front, 0], pixels_b[front, 0], atol=0.05, rtol=0)
    heading = [torch.stack((s["boxes"][:, 6].cos(), s["boxes"][:, 6].sin()), 1) for s in (a, b)]
    torch.testing.assert_close(heading[0] * torch.tensor([-1.0, 1.0]), heading[1])
    mirror.set_epoch(0)
    assert torch.equal(mirror[0]["images"], a["images"])


def test_motion_moves_agents_by_their_velocity() -> None:
    scene = make_scene(np.random.default_rng(1))
    later = scene.after(0.5)
    for before, after in zip(scene.agents, later.agents, strict=True):
        moved = after.position - before.position
        expected = np.append(before.velocity * 0.5, 0) - [0, scene.ego_speed * 0.5, 0]
        np.testing.assert_allclose(moved, expected, atol=1e-9)
    for agent in scene.agents:
        speed = np.hypot(*agent.velocity)
        heading = [np.cos(agent.yaw), np.sin(agent.yaw)]
        np.testing.assert_allclose(agent.velocity, speed * np.array(heading), atol=1e-9)


def test_collate_gives_a_batch(scenes: DrivingScenes) -> None:
    batch = scenes.collate([scenes[0], scenes[1]])
    assert batch["pixels"].shape == (2, 6, 3, *SIZE)
    assert batch["lidar2img"].shape == (2, 6, 4, 4)
    assert batch["image_size"] == SIZE
    assert batch["targets"][0]["boxes"].shape[1] == 9
    wide = DrivingScenes(split="val", size=(48, 96))
    with pytest.raises(DataError, match="one image size"):
        scenes.collate([scenes[0], wide[0]])


def test_kept_samples_are_the_same(scenes: DrivingScenes) -> None:
    kept = DrivingScenes(split="val", size=SIZE, keep=True)
    first = kept[3]["images"]
    assert torch.equal(first, kept[3]["images"])
    assert torch.equal(first, scenes[3]["images"])


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown split 'test'"):
        DrivingScenes(split="test")[0]
