"""The 3-D predictor: samples, serving tensors, drawing, errors."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.data.driving_scenes import scene_at, write_sample
from cupola.errors import InputError
from cupola.registry import build
from cupola.runtime.io.drawing3d import draw_sample
from cupola.runtime.io.sample_folder import read_sample
from cupola.runtime.predictors.detection3d import Detection3DPredictor
from cupola.structures import Detections3D
from models.detr3d.small import small_config

SIZE = (64, 96)


@pytest.fixture(scope="module")
def predictor() -> Detection3DPredictor:
    torch.manual_seed(0)
    model = build(small_config()).eval()
    names = ("car", "truck", "cone")
    return Detection3DPredictor("small", "1", model, labels=names, size=SIZE, threshold=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sample(tmp_path / "sample", *scene_at(0, "val", 0, SIZE), SIZE)
    return tmp_path / "sample"


def test_a_sample_folder_gives_detections(predictor, folder) -> None:
    found = predictor(folder)
    assert len(found) > 0
    assert found.to_list()[0]["name"] in predictor.labels
    assert (found.scores.diff() <= 0).all()
    assert len(predictor(folder, threshold=1.0)) == 0


def test_tensors_give_what_the_folder_gives(predictor, folder) -> None:
    images, matrices = read_sample(folder)
    expected = predictor(folder)
    files = np.array([(folder / f"{c}").read_bytes() for c in names(folder)], dtype=object)
    for tensors in ({"images": files}, {"pixels": np.stack(images)}):
        (sample,) = predictor.decode({**tensors, "lidar2img": matrices.reshape(-1)}, {})
        arrays = predictor.encode(predictor.run([sample]), {})
        np.testing.assert_allclose(arrays["boxes"], expected.boxes.numpy(), atol=1e-5)
        assert arrays["names"][0].decode() == expected.name(int(expected.labels[0]))
        assert {spec.name for spec in predictor.outputs if not spec.optional} == set(arrays)


@pytest.mark.parametrize("threshold", ["high", 1.5, -0.1, float("nan"), True, [0.5]])
def test_a_threshold_is_a_number(predictor, folder, threshold) -> None:
    with pytest.raises(InputError, match="threshold: expected a number in"):
        predictor(folder, threshold=threshold)
    with pytest.raises(InputError, match="threshold: expected a number in"):
        predictor.decode({}, {"threshold": threshold})


def names(folder: Path) -> list[str]:
    return [c["file"] for c in json.loads((folder / "sample.json").read_text())["cameras"]]


def test_images_of_another_size_take_their_matrices_along(predictor, folder) -> None:
    images, matrices = read_sample(folder)
    doubled = [p.repeat(2, 0).repeat(2, 1) for p in images]
    larger = matrices * np.array([2, 2, 1, 1], np.float32)[:, None]
    sample = predictor.sample(doubled, larger)
    np.testing.assert_allclose(sample.lidar2img, matrices, rtol=1e-5)
    assert sample.images.shape == (6, *SIZE, 3)
    assert predictor.bucket(sample) == (6, *SIZE, 3)


def test_samples_run_as_a_batch(predictor, folder) -> None:
    sample = predictor.sample(*read_sample(folder))
    one, two = predictor.run([sample, sample])
    torch.testing.assert_close(one.boxes, two.boxes)


def test_bgr_models_see_bgr(predictor) -> None:
    red = torch.zeros(6, 3, 64, 96)
    red[:, 0] = 255
    turned = Detection3DPredictor("x", "1", None, channel_order="bgr", mean=(0,) * 3, std=(1,) * 3)
    assert turned.normalize(red)[:, 2].max() == 255
    assert turned.normalize(red[..., :60, :]).shape == (6, 3, 64, 96)


SINGULAR = np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lidar2img": None}, "lidar2img is missing"),
        ({"lidar2img": np.zeros((5, 4, 4))}, r"expected \[6, 4, 4\]"),
        ({"lidar2img": np.full((6, 4, 4), np.nan)}, "camera 0 has a matrix with NaN"),
        ({"lidar2img": [["a"]]}, "not numbers"),
        ({"lidar2img": np.zeros((6, 4, 4))}, r"last row of camera 0 is \[0.0, .*transposed"),
        ({"lidar2img": [np.diag([2.0, 2.0, 2.0, 1.0])] * 6}, "camera 0 has length 2 .* divide"),
        ({"lidar2img": [SINGULAR] * 6}, "matrix of camera 0 is singular"),
        ({"camera_names": [b"CAM_FRONT"] * 6}, "one name appears twice in CAM_FRONT, "),
        ({"pixels": None}, "send either `images`"),
        ({"pixels": np.zeros((4, 8, 8, 3), np.uint8)}, "expected 6 images"),
        ({"pixels": np.zeros((6, 8, 8, 3), np.float32)}, "camera 0: expected an image"),
        ({"pixels": np.zeros((6, 0, 8, 3), np.uint8)}, "camera 0: the image is empty"),
    ],
)
def test_bad_tensors_are_named(predictor, change, message) -> None:
    tensors = {
        "pixels": np.zeros((6, *SIZE, 3), np.uint8),
        "lidar2img": np.tile(np.eye(4, dtype=np.float32), (6, 1, 1)),
    }
    tensors = {k: v for k, v in {**tensors, **change}.items() if v is not None}
    with pytest.raises(InputError, match=message):
        predictor.decode(tensors, {})


def test_a_broken_image_names_its_camera(predictor) -> None:
    good = io.BytesIO()
    Image.new("RGB", (96, 64)).save(good, "JPEG")
    files = np.array([good.getvalue()] * 5 + [b"no image"], dtype=object)
    matrices = np.tile(np.eye(4, dtype=np.float32), (6, 1, 1))
    with pytest.raises(InputError, match="camera 5: not an image"):
        predictor.decode({"images": files, "lidar2img": matrices}, {})


def test_bad_folders_are_named(predictor, folder, tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        predictor(tmp_path / "nowhere")
    (folder / "sample.json").write_text("[]")
    with pytest.raises(InputError, match="not a sample of cameras"):
        predictor(folder)
    text = json.dumps({"cameras": [{"file": "../x.png", "lidar2img": []}]})
    (folder / "sample.json").write_text(text)
    with pytest.raises(InputError, match="leads out of"):
        predictor(folder)


def test_the_drawing_shows_boxes_and_the_street_from_above(folder) -> None:
    images, matrices = read_sample(folder)
    scene, _ = scene_at(0, "val", 0, SIZE)
    boxes = torch.tensor(np.array([agent.box for agent in scene.agents]), dtype=torch.float32)
    labels = torch.tensor([agent.label for agent in scene.agents])
    truth = Detections3D(boxes, torch.ones(len(boxes)), labels, ("car", "truck", "man", "cone"))
    sheet = draw_sample(np.stack(images), matrices, truth)
    empty = draw_sample(np.stack(images), matrices, truth.above(2.0))
    assert sheet.size[0] > 3 * 3 * SIZE[1]
    assert np.asarray(sheet != empty).any()
    four = draw_sample(np.stack(images[:4]), matrices[:4], truth)
    assert four.size[1] >= 2 * 3 * SIZE[0]
