"""Augmentations of cameras and scene: what is projected follows its pixel."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.data.driving import camera_rig
from cupola.data.multiview_augmentation import (
    Crop,
    RandomCrop,
    RandomSceneMotion,
    SceneMotion,
)
from cupola.data.multiview_pipeline import read_pipeline
from cupola.errors import DataError

SIZE = (180, 100)  # width, height
CONF = {"resize_lim": (0.6, 0.9), "final_dim": (50, 80), "bot_pct_lim": (0.0, 0.2),
        "rot_lim": (-20.0, 20.0), "H": 100, "W": 180, "rand_flip": True}  # fmt: skip
# As PETR and StreamPETR publish them.
PUBLISHED = [
    {"type": "LoadMultiViewImageFromFiles", "to_float32": True},
    {"type": "ResizeCropFlipImage", "data_aug_conf": CONF, "training": True},
    {"type": "GlobalRotScaleTransImage", "rot_range": [-0.3925, 0.3925],
     "translation_std": [0, 0, 0], "scale_ratio_range": [0.95, 1.05], "reverse_angle": True,
     "training": True},
    {"type": "PETRFormatBundle3D", "class_names": ["car"], "collect_keys": ["lidar2img"]},
]  # fmt: skip


def spot(image: np.ndarray) -> np.ndarray:
    """The center (x, y) of what is bright."""
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def drawn(x: float, y: float) -> np.ndarray:
    """A black image with a bright spot."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    bright = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    return np.repeat(bright[..., None], 3, -1).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(20, 160), st.floats(20, 80), st.booleans())
def test_a_pixel_follows_its_matrix(seed: int, x: float, y: float, training: bool) -> None:
    crop = RandomCrop.from_config(CONF, training).draw(np.random.default_rng(seed))
    image = crop(drawn(x, y))
    assert image.shape == (50, 80, 3)
    u, v, _, _ = crop.matrix(SIZE) @ [x, y, 1, 1]
    if 10 < u < 70 and 10 < v < 40:  # the whole spot is in the window
        assert np.abs(spot(image) - (u, v)).max() < 0.7


def test_each_step_of_a_crop() -> None:
    plain = Crop((90, 50), 5, 4, (80, 40))
    assert (plain.matrix(SIZE) @ [100, 60, 1, 7]).tolist() == [45, 26, 1, 7]
    assert (replace(plain, flip=True).matrix(SIZE) @ [100, 60, 1, 1]).tolist() == [35, 26, 1, 1]
    turned = replace(plain, degrees=90).matrix(SIZE) @ [100, 60, 1, 1]
    np.testing.assert_allclose(turned[:2], [46, 15])  # counterclockwise about (40, 20)
    deep = plain.matrix(SIZE) @ [100 * 3.0, 60 * 3.0, 3.0, 1]
    np.testing.assert_allclose(deep[:2] / deep[2], [45, 26])


def test_in_test_mode_the_crop_is_the_middle_of_the_lower_part() -> None:
    chosen = RandomCrop((320, 800), resize=(0.47, 0.625), flip=True, training=False)
    crop = chosen.draw(np.random.default_rng(0))
    assert crop == Crop((800, 450), 0, 130, (800, 320))


@settings(deadline=None, max_examples=40)
@given(st.floats(-3, 3), st.floats(0.5, 2), st.tuples(*[st.floats(-5, 5)] * 3))
def test_boxes_and_cameras_move_together(yaw: float, scale: float, shift: tuple) -> None:
    motion = SceneMotion(yaw, scale, np.array(shift))
    boxes = np.array([[8, 3, -1, 4, 2, 1.5, 0.4, 2, -1], [-9, 4, 0, 1, 1, 2, -2, 0, 0]], np.float32)
    moved = motion.boxes(boxes).astype(float)
    later = boxes.copy()
    later[:, :2] += 0.5 * boxes[:, 7:9]
    np.testing.assert_allclose(motion.boxes(later)[:, :2], moved[:, :2] + 0.5 * moved[:, 7:9],
                               atol=1e-4)  # fmt: skip
    for camera in camera_rig((96, 160)):
        matrix = camera.lidar2img @ np.linalg.inv(motion.matrix())
        for before, after in ((ends(boxes), ends(moved)),):
            np.testing.assert_allclose(
                matrix @ after, camera.lidar2img @ before, rtol=1e-4, atol=1e-2
            )


def ends(boxes: np.ndarray) -> np.ndarray:
    """The centers of the boxes' fronts, homogeneous [4, M]."""
    x, y, z, length, _, _, yaw = boxes[:, :7].astype(float).T
    front = (x + length / 2 * np.cos(yaw), y + length / 2 * np.sin(yaw), z, np.ones(len(boxes)))
    return np.stack(front)


def test_published_pipelines_are_read() -> None:
    found = read_pipeline(PUBLISHED)
    crop = found["images"]["crop"]
    assert crop == RandomCrop((50, 80), (100, 180), (0.6, 0.9), (0.0, 0.2), (-20.0, 20.0), True)
    assert found["motion"] == RandomSceneMotion()
    test = read_pipeline([{**PUBLISHED[1], "training": False}, {**PUBLISHED[2], "training": False}])
    assert not test["images"]["crop"].training and "motion" not in test


def test_draws_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    crops = [RandomCrop.from_config(CONF, True).draw(rng) for _ in range(200)]
    assert {crop.flip for crop in crops} == {True, False}
    assert all(0.59 < crop.resized[0] / 180 < 0.9 and abs(crop.degrees) < 20 for crop in crops)
    assert all(0 <= crop.left <= crop.resized[0] - 80 for crop in crops)
    motions = [RandomSceneMotion(shift=(1, 1, 0)).draw(rng) for _ in range(200)]
    assert all(abs(m.yaw) < 0.3925 and 0.95 < m.scale < 1.05 and m.shift[2] == 0 for m in motions)
    assert 0.7 < np.std([m.shift[0] for m in motions]) < 1.3
    assert math.isclose(np.mean([m.yaw for m in motions]), 0, abs_tol=0.06)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "ResizeCropFlipImage"}, "needs data_aug_conf, a dict with final_dim.*got None"),
        ({"type": "ResizeCropFlipRotImage", "data_aug_conf": {"H": 9}}, r"final_dim.*\['H'\]"),
    ],
)
def test_errors(step: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pipeline([step])
