"""Published multi-camera pipelines: their settings, and the effect on samples."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.data.driving.tables import write_scenes
from cupola.data.multiview_pipeline import read_pipeline
from cupola.data.nuscenes import NuScenesDataset
from cupola.data.photometric import Distortion, PhotometricDistortion, distort
from cupola.errors import DataError
from cupola.registry import build
from models.detr3d.small import small_config

RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
CAFFE = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
# As WangYueFt/detr3d and MMDetection3D's project publish them.
ORIGINAL = [
    {"type": "LoadMultiViewImageFromFiles", "to_float32": True},
    {"type": "PhotoMetricDistortionMultiViewImage"},
    {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
    {"type": "ObjectRangeFilter", "point_cloud_range": RANGE},
    {"type": "ObjectNameFilter", "classes": ["car", "truck"]},
    {"type": "NormalizeMultiviewImage", **CAFFE, "to_rgb": False},
    {"type": "PadMultiViewImage", "size_divisor": 32},
    {"type": "DefaultFormatBundle3D", "class_names": ["car", "truck"]},
    {"type": "Collect3D", "keys": ["gt_bboxes_3d", "gt_labels_3d", "img"]},
]
RESIZE = {"type": "RandomResize3D", "scale": (80, 48), "ratio_range": (1.0, 1.0)}
PROJECT = [
    {"type": "LoadMultiViewImageFromFiles", "to_float32": True, "num_views": 6},
    {
        "type": "MultiViewWrapper",
        "transforms": [{"type": "PhotoMetricDistortion3D"}, {**RESIZE, "keep_ratio": True}],
    },
    {"type": "ObjectRangeFilter", "point_cloud_range": RANGE},
    {"type": "Pack3DDetInputs", "keys": ["img", "gt_bboxes_3d", "gt_labels_3d"]},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write_scenes(folder, count=1, frames=2, size=(60, 100))
    return folder


def dataset(root: Path, **settings: object) -> NuScenesDataset:
    return NuScenesDataset(root, version="v1.0-mini", **settings)


def test_pipelines_of_both_repositories_are_read() -> None:
    first, second = read_pipeline(ORIGINAL), read_pipeline(PROJECT)
    assert first["point_cloud_range"] == second["point_cloud_range"] == RANGE
    assert first["classes"] == ("car", "truck")
    expected = {**CAFFE, "bgr_to_rgb": False, "pad_size_divisor": 32}
    assert first["images"] == {**expected, "distortion": PhotometricDistortion()}
    assert second["images"] == {
        "scale": (80, 48),
        "distortion": PhotometricDistortion(shared=True),
    }


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "PadMultiViewImag"}, "unknown step 'PadMultiViewImag'.*PadMultiViewImage"),
        ({**RESIZE, "ratio_range": (0.5, 1.0)}, r"random ratio \(0\.5\.\.1\.0\)"),
        ({"type": "PadMultiViewImage", "size": (9, 9)}, "needs size_divisor"),
    ],
)
def test_unknown_steps_and_settings_are_errors(step: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pipeline([step])


def test_a_dataset_follows_its_pipeline(root: Path) -> None:
    plain = dataset(root, images={**CAFFE, "pad_size_divisor": 32})
    steps = [step for step in ORIGINAL if "PhotoMetric" not in step["type"]]
    piped = dataset(root, pipeline=steps)
    assert piped.names == ("car", "truck")
    assert torch.equal(piped[0]["images"], plain[0]["images"])
    assert set(piped[0]["labels"].tolist()) <= {0, 1}
    distorted = dataset(root, pipeline=ORIGINAL)
    first = distorted[0]["images"]
    assert not torch.equal(first, plain[0]["images"])
    assert torch.equal(first, dataset(root, pipeline=ORIGINAL)[0]["images"])
    distorted.set_epoch(1)
    assert not torch.equal(first, distorted[0]["images"])


def test_model_preprocessor_and_dataset_settings_give_the_same_pixels(root: Path) -> None:
    raw = dataset(root, pipeline=PROJECT[:1])
    preprocessor = {"type": "Det3DDataPreprocessor", **CAFFE, "pad_size_divisor": 32}
    model = build({**small_config(), "data_preprocessor": preprocessor}).eval()
    pixels, _, size = model.ready(raw.collate([raw[0], raw[1]]))
    plain = dataset(root, images={**CAFFE, "pad_size_divisor": 32})
    expected = plain.collate([plain[0], plain[1]])
    torch.testing.assert_close(pixels, expected["pixels"], atol=1e-4, rtol=0)
    assert tuple(size) == expected["image_size"] == (64, 128)
    assert len(model.predict(raw.collate([raw[0]]))) == 1
    with pytest.raises(ValueError, match="has no data_preprocessor"):
        build(small_config()).loss(raw.collate([raw[0]]))


# ---- the distortion

NOTHING = Distortion(None, False, None, None, None, None)


def test_an_empty_distortion_changes_nothing() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(distort(image, NOTHING), image)
    still = Distortion(None, False, None, 1.0, 0.0, None)
    np.testing.assert_allclose(distort(image, still), image, atol=1e-3)


def test_saturation_and_hue_are_those_of_the_hsv_cylinder() -> None:
    image = np.random.default_rng(1).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    image[0, 0] = 90.0  # gray has no hue
    changed = distort(image, Distortion(None, False, None, 0.7, 14.0, None))
    for before, after in zip(image.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = colorsys.hsv_to_rgb((hue + 14 / 360) % 1, saturation * 0.7, value)
        np.testing.assert_allclose(after / 255, expected, atol=1e-4)


def test_contrast_is_applied_before_or_after_the_colors() -> None:
    image = np.full((1, 1, 3), 100.0, np.float32)
    drawn = Distortion(20.0, True, 1.5, None, None, (2, 1, 0))
    np.testing.assert_allclose(distort(image, drawn), 180.0)
    colored = np.array([[[10.0, 20.0, 30.0]]], np.float32)
    assert distort(colored, Distortion(None, True, None, None, None, (2, 0, 1)))[0, 0].tolist() == [
        30,
        10,
        20,
    ]


def test_cameras_share_a_distortion_or_have_their_own() -> None:
    image = np.random.default_rng(2).uniform(0, 255, (4, 4, 3)).astype(np.float32)
    six = np.stack([image] * 6)
    shared = PhotometricDistortion(shared=True)(six, np.random.default_rng(5))
    assert (shared == shared[0]).all() and (shared != six).any()
    apart = PhotometricDistortion()(six, np.random.default_rng(5))
    assert len({view.tobytes() for view in apart}) > 1
    draws = [PhotometricDistortion().draw(np.random.default_rng(i)) for i in range(400)]
    assert 150 < sum(d.hue is not None for d in draws) < 250
    assert all(-18 <= d.hue <= 18 for d in draws if d.hue is not None)
    assert all(0.5 <= d.contrast <= 1.5 for d in draws if d.contrast is not None)


CROP = {"resize_lim": (0.5, 0.7), "final_dim": (24, 40), "bot_pct_lim": (0, 0), "rot_lim": (0, 0),
        "H": 60, "W": 100, "rand_flip": True}  # fmt: skip
PETR = [
    *ORIGINAL[2:5],
    {"type": "ResizeCropFlipImage", "data_aug_conf": CROP, "training": True},
    {"type": "GlobalRotScaleTransImage", "rot_range": [0.3, 0.3], "scale_ratio_range": [1.1, 1.1]},
    *ORIGINAL[5:],
]


def test_a_dataset_crops_its_images_and_moves_its_scene(root: Path) -> None:
    plain, moved = dataset(root, pipeline=ORIGINAL)[1], dataset(root, pipeline=PETR)[1]
    assert moved["images"].shape == (6, 3, 32, 64)
    turn = torch.tensor([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]).float()
    for part in (slice(2), slice(7, 9)):
        torch.testing.assert_close(
            moved["boxes"][:, part], 1.1 * plain["boxes"][:, part] @ turn.T, rtol=1e-4, atol=1e-4
        )
    places = [
        sample["lidar2img"] @ torch.cat((sample["boxes"][:, :3], torch.ones(1)[:, None].expand(
            len(sample["boxes"]), 1)), 1).T
        for sample in (plain, moved)
    ]  # fmt: skip
    torch.testing.assert_close(places[0][:, 2], places[1][:, 2], rtol=1e-4, atol=1e-3)  # depths
    pixels = [place[:, :2] / place[:, 2:3] for place in places]
    ratio = (pixels[1][0, 1].max() - pixels[1][0, 1].min()) / (
        pixels[0][0, 1].max() - pixels[0][0, 1].min()
    )
    assert 0.5 < ratio < 0.7
    again = dataset(root, pipeline=PETR)
    assert torch.equal(again[1]["images"], moved["images"])
    again.set_epoch(1)
    assert not torch.equal(again[1]["images"], moved["images"])
    assert torch.equal(dataset(root, pipeline=PETR, test_mode=True)[1]["boxes"], plain["boxes"])


def test_clips_do_not_move_their_scene(root: Path) -> None:
    with pytest.raises(DataError, match="GlobalRotScaleTransImage is not supported with queue_len"):
        dataset(root, pipeline=PETR, queue_length=3)
