"""Number, names and order of the cameras, from configs and in samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cupola
from cupola.bundles import Bundle, write_bundle
from cupola.cli.explain import app as explain
from cupola.errors import InputError
from cupola.runtime import Predictor
from cupola.runtime.cameras import NUSCENES, WAYMO, cameras_of, order_of
from cupola.runtime.io.sample_folder import read_named_sample
from cupola.runtime.published import bundle_config
from cupola.serve.runners.codec import check_inputs
from models.detr3d.small import small_config

EXAMPLE = Bundle.load("detr3d-scenes").path / "example"


@pytest.mark.parametrize(
    ("cfg", "model", "steps", "expected"),
    [
        ({}, {}, [], (6, NUSCENES)),
        ({}, small_config(cameras=5), [], (5, WAYMO)),
        ({}, {}, [{"type": "LoadMultiViewImageFromFiles", "num_views": 5}], (5, WAYMO)),
        ({"num_views": 4}, {}, [], (4, ())),
        ({"dataset_type": "WaymoDataset"}, {}, [], (5, WAYMO)),
        ({"data": {"test": {"type": "CustomWaymoDataset"}}}, {}, [], (5, WAYMO)),
        ({"data_aug_conf": {"cams": ["A", "B"], "Ncams": 2}}, {}, [], (2, ("A", "B"))),
        ({"num_cams": 6}, small_config(cameras=3), [{"num_views": 5}], (3, ())),
    ],
)
def test_cameras_of_a_config(cfg: Any, model: Any, steps: Any, expected: Any) -> None:
    assert cameras_of(cfg, model, steps) == expected


def test_a_model_of_five_cameras_is_explained(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    about = bundle_config({"model": small_config(cameras=5), "class_names": list("abc")}, "five")
    assert about["preprocess"]["cameras"] == 5
    about["preprocess"]["size"] = [64, 96]
    state = cupola.build(about["model"]).state_dict()
    write_bundle(tmp_path / "five", about, state, "# five\n", torch.float32)
    done = CliRunner().invoke(explain, [str(tmp_path / "five")], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_order() -> None:
    turned = NUSCENES[::-1]
    assert order_of(turned, (), 6) == [5, 4, 3, 2, 1, 0]
    assert order_of((), NUSCENES, 6) == order_of(list("abcdef"), (), 6) == list(range(6))
    with pytest.raises(InputError, match=r"expected CAM_FRONT, .* got CAM_FRONT, b"):
        order_of(["CAM_FRONT", *"bcdef"], (), 6)
    with pytest.raises(InputError, match="name and order them"):
        order_of(list("abcdef"), NUSCENES, 6)


def test_a_sample_in_another_order_has_the_same_answer(tmp_path: Path) -> None:
    predictor = Predictor.load("detr3d-scenes")
    shutil.copytree(EXAMPLE, tmp_path / "turned")
    path = tmp_path / "turned" / "sample.json"
    content = json.loads(path.read_text())
    content["cameras"].reverse()
    path.write_text(json.dumps(content))
    expected, turned = predictor(EXAMPLE), predictor(tmp_path / "turned")
    assert len(expected) > 0
    torch.testing.assert_close(expected.boxes, turned.boxes)
    images, matrices, names = read_named_sample(tmp_path / "turned")
    tensors = {"pixels": np.stack(images), "lidar2img": matrices}
    tensors["camera_names"] = np.array([[name.encode() for name in names]], object)
    check_inputs(tensors, {spec.name: spec for spec in predictor.inputs})
    (sent,) = predictor.run(predictor.decode(tensors, {}))
    torch.testing.assert_close(expected.boxes, sent.above(predictor.threshold).boxes)
    content["cameras"][0]["name"] = "CAM_TOP"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"got .*CAM_TOP"):
        predictor(tmp_path / "turned")


def test_matrices_with_a_batch_axis() -> None:
    predictor = Predictor.load("detr3d-scenes")
    images = np.zeros((6, 20, 30, 3), np.uint8)
    one = predictor.sample(list(images), np.tile(np.eye(4), (6, 1, 1)))
    batched = {"pixels": images[None], "lidar2img": np.tile(np.eye(4), (1, 6, 1, 1))}
    specs = {spec.name: spec for spec in predictor.inputs}
    check_inputs({**batched, "lidar2img": batched["lidar2img"].astype(np.float32)}, specs)
    with pytest.raises(InputError, match="expected shape"):
        check_inputs({"lidar2img": np.zeros((2, 6, 4, 4), np.float32)}, specs)
    (other,) = predictor.decode(batched, {})
    np.testing.assert_array_equal(one.lidar2img, other.lidar2img)
