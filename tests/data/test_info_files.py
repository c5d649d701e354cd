"""Info files as converters write them: protocols, both layouts, paths, filters, errors."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cupola.data.nuscenes import NuScenesDataset
from cupola.data.nuscenes_infos import info_samples
from cupola.data.nuscenes_tables import Tables
from cupola.errors import DataError

CAMERA = "CAM_FRONT"


def layout1(**changes: Any) -> dict[str, Any]:
    """One sample with two cars, the second seen by a radar only."""
    camera = {
        "data_path": f"./data/nuscenes/samples/{CAMERA}/x.jpg",
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.zeros(3),
        "cam_intrinsic": np.diag([100.0, 100.0, 1.0]),
    }
    info = {
        "token": "t",
        "timestamp": 1,
        "cams": {CAMERA: camera},
        "gt_names": np.array(["car", "car"]),
        "gt_boxes": np.arange(14.0).reshape(2, 7) + 1,
        "gt_velocity": np.array([[1.0, 2.0], [np.nan, np.nan]]),
        "valid_flag": np.array([True, True]),
        "num_lidar_pts": np.array([3, 0]),
    }
    return {"infos": [{**info, **changes}], "metadata": {"version": "v1.0-mini"}}


def layout2(path: str = "x.jpg", **changes: Any) -> dict[str, Any]:
    image = {"img_path": path, "cam2img": np.eye(3).tolist(), "lidar2cam": np.eye(4).tolist()}
    instance = {
        "bbox_3d": [1.0, 2, 3, 4, 5, 6, 7],
        "velocity": [1.0, 2.0],
        "bbox_label_3d": 0,
        "bbox_3d_isvalid": True,
        "num_lidar_pts": 1,
    }
    hidden = {**instance, "num_lidar_pts": 0}
    info = {"token": "t", "images": {CAMERA: image}, "instances": [instance, hidden]}
    return {"metainfo": {"categories": {"car": 0}}, "data_list": [{**info, **changes}]}


def save(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "infos.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def image(root: Path, file: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_every_protocol_is_read(tmp_path: Path, protocol: int, core: bytes) -> None:
    data = pickle.dumps(layout1(), protocol=protocol)
    if protocol < 4:  # later protocols store the length of names
        data = data.replace(b"numpy._core", core)
    (tmp_path / "infos.pkl").write_bytes(data)
    (record,) = info_samples(tmp_path / "infos.pkl", use_valid_flag=True)
    assert record.boxes.shape == (2, 9)
    assert np.isnan(record.boxes[1, 7:]).all()


def test_the_filters_of_objects(tmp_path: Path) -> None:
    for content in (layout1(), layout2()):
        path = save(tmp_path, content)
        assert len(info_samples(path)[0].boxes) == 1
        assert len(info_samples(path, use_valid_flag=True)[0].boxes) == 2
    assert len(info_samples(save(tmp_path, layout1(num_lidar_pts=None)))[0].boxes) == 2
    path = save(tmp_path, layout1(valid_flag=np.array([False, True])))
    assert len(info_samples(path, use_valid_flag=True)[0].boxes) == 1


def test_boxes_of_nine_columns(tmp_path: Path) -> None:
    nine = np.arange(18.0).reshape(2, 9)
    path = save(tmp_path, layout1(gt_boxes=nine, gt_velocity=None))
    np.testing.assert_array_equal(info_samples(path, use_valid_flag=True)[0].boxes, nine)
    instance = {"bbox_3d": list(range(9)), "bbox_label_3d": 0}
    (record,) = info_samples(save(tmp_path, layout2(instances=[instance])))
    np.testing.assert_array_equal(record.boxes, [list(range(9))])


@pytest.mark.parametrize(
    "stored",
    [
        "/d/my_samples/nuscenes/samples/CAM_FRONT/x.jpg",
        "data/nuscenes/samples/CAM_FRONT/x.jpg",
        "../data/nuscenes/samples/CAM_FRONT/x.jpg",
        "samples/CAM_FRONT/x.jpg",
        "D:\\data\\samples\\CAM_FRONT\\x.jpg",
        "/samples/nuscenes/samples/CAM_FRONT/x.jpg",
    ],
)
def test_stored_paths_are_found_below_the_root(tmp_path: Path, stored: str) -> None:
    image(tmp_path, "samples/CAM_FRONT/x.jpg")
    content = layout1()
    content["infos"][0]["cams"][CAMERA]["data_path"] = stored
    save(tmp_path, content)
    assert NuScenesDataset(tmp_path, "infos.pkl")[0]["raw_images"].shape == (1, 3, 6, 8)
    save(tmp_path, layout2(stored))
    assert NuScenesDataset(tmp_path, "infos.pkl")[0]["raw_images"].shape == (1, 3, 6, 8)


@pytest.mark.parametrize("stored", ["copy/samples/x.jpg", "my_samples/x.jpg"])
def test_the_stored_path_comes_first(tmp_path: Path, stored: str) -> None:
    image(tmp_path, stored)
    for path in (stored, str(tmp_path / stored)):
        save(tmp_path, layout2(path))
        assert NuScenesDataset(tmp_path, "infos.pkl")[0]["raw_images"].shape == (1, 3, 6, 8)


def test_a_path_outside_the_root_is_not_read(tmp_path: Path) -> None:
    image(tmp_path, "elsewhere/x.jpg")
    root = tmp_path / "root"
    root.mkdir()
    save(root, layout2(str(tmp_path / "elsewhere" / "x.jpg")))
    with pytest.raises(DataError, match="leads out of"):
        NuScenesDataset(root, "infos.pkl")[0]


def test_data_prefix_names_the_folder(tmp_path: Path) -> None:
    image(tmp_path, "samples_small/CAM_FRONT/x.jpg")
    save(tmp_path, layout2())
    for prefix in ({CAMERA: "samples_small/CAM_FRONT"}, {"img": "samples_small/CAM_FRONT/"}):
        data = NuScenesDataset(tmp_path, "infos.pkl", data_prefix=prefix)
        assert data[0]["raw_images"].shape == (1, 3, 6, 8)
    with pytest.raises(DataError, match=r"x\.jpg: the image is missing"):
        NuScenesDataset(tmp_path, "infos.pkl")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "accepted are a dict with `infos`"),
        ({"other": 1}, r"got \['other'\]"),
        ({"infos": [3]}, r"infos\[0\]: the sample is no dict"),
        (layout1(cams=None), r"infos\[0\]: cams is missing; there are token"),
        (layout1(cams={CAMERA: {}}), r"cams\.CAM_FRONT\.sensor2lidar_rotation is missing"),
        (layout1(gt_boxes=np.zeros((2, 8))), r"gt_boxes has shape \[2, 8\]; accepted are \[N, 7\]"),
        (layout1(gt_boxes=["a", "b"]), "gt_boxes holds something other than numbers"),
        (layout1(gt_names=["car"]), "1 names for 2 boxes"),
        (layout1(gt_velocity=np.zeros((1, 2))), "1 rows for 2 boxes"),
        (layout1(num_lidar_pts=[1]), "1 values for 2 boxes"),
        (
            layout1(cams={CAMERA: {"sensor2lidar_rotation": np.zeros((3, 3))}}),
            "sensor2lidar_rotation is not a rotation",
        ),
        (layout2(images=[]), r"data_list\[0\]: images is no dict but of type list"),
        (layout2(instances=3), "instances is no list"),
        (layout2(instances=[{"bbox_label_3d": 0}]), r"instances\[0\]\.bbox_3d is missing"),
        (layout2(token=None), "sample_idx is missing"),
        (layout2(5), "img_path is no text"),
    ],
)
def test_errors_name_sample_and_entry(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        info_samples(save(tmp_path, content))
    assert "Error(" not in str(caught.value)


def test_classes_without_categories(tmp_path: Path) -> None:
    content = layout2()
    content["metainfo"] = {"classes": ["bus", "car"]}
    assert info_samples(save(tmp_path, content))[0].names == ["bus"]
    del content["metainfo"]
    assert info_samples(save(tmp_path, content))[0].names == ["car"]


def test_tables_with_a_joined_point_cloud(tmp_path: Path) -> None:
    from cupola.data.driving.tables import write_scenes

    write_scenes(tmp_path, count=1, frames=1, size=(6, 8))
    before = Tables(tmp_path, "v1.0-mini").samples()[0]
    sensors = tmp_path / "v1.0-mini" / "sensor.json"
    text = sensors.read_text()
    sensors.write_text(text.replace("LIDAR_TOP", "LIDAR_CONCAT"))
    after = Tables(tmp_path, "v1.0-mini").samples()[0]
    np.testing.assert_array_equal(before.boxes, after.boxes)
    sensors.write_text(text.replace("LIDAR_TOP", "LIDAR_LEFT"))
    with pytest.raises(DataError, match="has no LIDAR_TOP or LIDAR_CONCAT, only"):
        Tables(tmp_path, "v1.0-mini").samples()[0]
