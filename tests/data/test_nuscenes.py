"""nuScenes reading: the tables against nuscenes-devkit's geometry, and both info layouts."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.data.class_balance import CBGSDataset
from cupola.data.driving.tables import write_scenes
from cupola.data.nuscenes import NuScenesDataset
from cupola.data.nuscenes_infos import info_samples
from cupola.data.nuscenes_tables import Tables, pose
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures import boxes3d

DEVKIT = json.loads(Path(__file__).with_name("nuscenes_devkit_geometry.json").read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write_scenes(folder, count=2, frames=3, size=(60, 100))
    return folder


@pytest.fixture(scope="module")
def tables(root: Path) -> Tables:
    return Tables(root, "v1.0-mini")


def devkit_boxes(sample: str) -> list[dict]:
    """The devkit's boxes that have a visible pixel, nearest first."""
    kept = [box for box in DEVKIT[sample].values() if box["points"] > 0]
    return sorted(kept, key=lambda box: np.hypot(*box["center"][:2]))


def test_the_devkit_reads_what_the_generator_writes(tables: Tables) -> None:
    assert set(DEVKIT) == set(tables.table("sample"))
    assert len(tables.samples()) == 6
    assert len(tables.samples(["scene-0061"])) == 3
    assert len(tables.samples()[1:3]) == 2


def test_boxes_equal_the_devkit_s(tables: Tables) -> None:
    for record in tables.samples():
        ours = record.boxes[np.argsort(np.hypot(record.boxes[:, 0], record.boxes[:, 1]))]
        theirs = devkit_boxes(record.token)
        assert len(ours) == len(theirs)
        for box, peer in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(box[:3], peer["center"], atol=1e-5)
            np.testing.assert_allclose(box[[4, 3, 5]], peer["wlh"], atol=1e-9)
            turn = (box[6] - peer["yaw"] + np.pi) % (2 * np.pi) - np.pi
            assert abs(turn) < 1e-6
            lidar = tables._data[record.token]["LIDAR_TOP"]
            inverse = np.linalg.inv(tables._sensor2global(lidar))[:3, :3]
            np.testing.assert_allclose(box[7:], (inverse @ peer["velocity"])[:2], atol=1e-5)


def test_corners_and_projection_equal_the_devkit_s(tables: Tables) -> None:
    checked = 0
    for record in tables.samples():
        ours = record.boxes[np.argsort(np.hypot(record.boxes[:, 0], record.boxes[:, 1]))]
        corners = boxes3d.corners(torch.from_numpy(ours)).numpy()
        for points, peer in zip(corners, devkit_boxes(record.token), strict=True):
            np.testing.assert_allclose(
                *(np.sort(p, 0) for p in (points, peer["corners"])), atol=1e-5
            )
            for channel, pixels in peer["pixels"].items():
                matrix = torch.from_numpy(record.camera(channel).lidar2img)
                uv = boxes3d.project(torch.from_numpy(points), matrix)[0].numpy()
                np.testing.assert_allclose(np.sort(uv, 0), np.sort(pixels, 0), atol=0.01)
                checked += 1
    assert checked > 30


def test_samples_of_the_dataset(root: Path) -> None:
    data = DATASETS.build(
        {
            "type": "NuScenesDataset",
            "data_root": str(root),
            "version": "v1.0-mini",
            "metainfo": {"classes": ["car", "truck", "pedestrian", "traffic_cone"]},
            "point_cloud_range": [-20, -20, -5, 20, 20, 3],
            "images": {"scale": (50, 30), "pad_size_divisor": 32},
        }
    )
    sample = data[0]
    assert sample["images"].shape == (6, 3, 32, 64)
    assert (sample["images"][:, :, 30:] == 0).all()
    assert sample["boxes"][:, :2].abs().max() < 20
    record = data.samples[0]
    halved = record.camera("CAM_FRONT").lidar2img * np.array([0.5, 0.5, 1, 1])[:, None]
    np.testing.assert_allclose(sample["lidar2img"][0].numpy(), halved, rtol=1e-5)
    bottom = {round(float(b[2] - b[5] / 2), 3) for b in record.boxes}
    assert {round(z, 3) for z in sample["boxes"][:, 2].tolist()} <= bottom
    batch = data.collate([data[0], data[1]])
    assert batch["pixels"].shape[0] == 2


def infos(tables: Tables) -> tuple[dict, dict]:
    """The same samples as info files of both layouts, as MMDetection3D's converter makes them."""
    first: dict = {"infos": [], "metadata": {"version": "v1.0-mini"}}
    second: dict = {"data_list": [], "metainfo": {"categories": {"car": 0, "truck": 1}}}
    for i, record in enumerate(tables.samples()):
        data = tables._data[record.token]
        lidar = tables._sensor2global(data["LIDAR_TOP"])
        cams, images = {}, {}
        for view in record.cameras:
            row = data[view.name]
            calibration = tables.table("calibrated_sensor")[row["calibrated_sensor_token"]]
            cam2lidar = np.linalg.inv(lidar) @ tables._sensor2global(row)
            intrinsic = np.array(calibration["camera_intrinsic"])
            cams[view.name] = {
                "data_path": f"./data/nuscenes/{view.file}",
                "sensor2lidar_rotation": cam2lidar[:3, :3],
                "sensor2lidar_translation": cam2lidar[:3, 3],
                "cam_intrinsic": intrinsic,
            }
            images[view.name] = {
                "img_path": Path(view.file).name,
                "cam2img": intrinsic.tolist(),
                "lidar2cam": np.linalg.inv(cam2lidar).tolist(),
            }
        first["infos"].append(
            {
                "token": record.token,
                "timestamp": i,
                "cams": cams,
                "gt_boxes": record.boxes[:, :7],
                "gt_names": np.array(record.names),
                "gt_velocity": record.boxes[:, 7:],
                "valid_flag": np.ones(len(record.boxes), bool),
            }
        )
        categories = second["metainfo"]["categories"]
        second["data_list"].append(
            {
                "token": record.token,
                "images": images,
                "instances": [
                    {
                        "bbox_3d": box[:7].tolist(),
                        "bbox_label_3d": categories.get(name, -1),
                        "velocity": box[7:].tolist(),
                        "bbox_3d_isvalid": True,
                    }
                    for name, box in zip(record.names, record.boxes, strict=True)
                ],
            }
        )
    return first, second


def test_both_info_layouts_equal_the_tables(root: Path, tables: Tables) -> None:
    for number, content in enumerate(infos(tables)):
        path = root / f"infos{number}.pkl"
        path.write_bytes(pickle.dumps(content))
        for record, expected in zip(info_samples(path), tables.samples(), strict=True):
            assert record.token == expected.token
            np.testing.assert_allclose(record.boxes, expected.boxes, atol=1e-9)
            for view in expected.cameras:
                mine = record.camera(view.name)
                np.testing.assert_allclose(mine.lidar2img, view.lidar2img, atol=1e-6)
                assert mine.file == view.file
        data = NuScenesDataset(root, ann_file=path.name)
        assert data[0]["raw_images"].shape == (6, 3, 60, 100)


@pytest.mark.parametrize(
    "stored", ["C:\\data\\nuscenes\\", "data/nuscenes/", "s3://bucket/", "\\\\srv\\"]
)
def test_paths_of_other_machines_below_a_data_prefix(
    root: Path, tables: Tables, stored: str
) -> None:
    _, content = infos(tables)
    for name, image in content["data_list"][0]["images"].items():
        path = f"samples/{name}/{image['img_path']}"
        image["img_path"] = stored + (path.replace("/", "\\") if "\\" in stored else path)
    (root / "foreign.pkl").write_bytes(pickle.dumps(content))
    prefix = {view.name: f"samples/{view.name}" for view in tables.samples()[0].cameras}
    for given in (prefix, None):
        data = NuScenesDataset(root, ann_file="foreign.pkl", data_prefix=given)
        assert data[0]["raw_images"].shape == (6, 3, 60, 100)


def test_a_box_with_nan_is_named(root: Path, tables: Tables) -> None:
    for content, key in zip(infos(tables), ("gt_boxes", "bbox_3d"), strict=True):
        if "infos" in content:
            content["infos"][1]["gt_boxes"][2, 0] = np.nan
        else:
            content["data_list"][1]["instances"][2]["bbox_3d"][0] = np.nan
        (root / "nan.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=rf"nan\.pkl, .*\[1\]: .*{key}.* has NaN .*: \[nan,"):
            info_samples(root / "nan.pkl")


def test_boxes_of_the_old_convention_are_converted(root: Path, tables: Tables) -> None:
    content, _ = infos(tables)
    for info in content["infos"]:
        boxes = info["gt_boxes"].copy()
        boxes[:, [3, 4]] = boxes[:, [4, 3]]
        boxes[:, 6] = -boxes[:, 6] - np.pi / 2
        info["gt_boxes"] = boxes
    path = root / "old.pkl"
    path.write_bytes(pickle.dumps(content))
    for convention in ("0.x", None):  # or told by the vehicles, which would be wider than long
        record = info_samples(path, convention)[0]
        np.testing.assert_allclose(record.boxes, tables.samples()[0].boxes, atol=1e-9)
    as_they_are = info_samples(path, "1.x")[0].boxes
    np.testing.assert_allclose(as_they_are[:, 3], record.boxes[:, 4], atol=1e-9)
    with pytest.raises(DataError, match=r"'0\.x' or '1\.x'"):
        info_samples(path, "2.x")


def test_classes_are_balanced(root: Path) -> None:
    inner = {"type": "NuScenesDataset", "data_root": str(root), "version": "v1.0-mini"}
    data = DATASETS.build({"type": "CBGSDataset", "dataset": inner})
    assert isinstance(data, CBGSDataset)
    assert len(data) > 0
    assert data[0]["token"] in DEVKIT


class Bomb:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_an_info_file_with_code_is_rejected(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "bomb.pkl"
    path.write_bytes(pickle.dumps({"infos": [Bomb()]}))
    with pytest.raises(DataError, match=r"contains builtins\.print"):
        NuScenesDataset(root, ann_file=path.name)
    assert capsys.readouterr().out == ""


def test_errors_contain_the_file(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of nuScenes tables not found"):
        NuScenesDataset(root, version="v9")
    with pytest.raises(DataError, match="cannot be read"):
        NuScenesDataset(root, ann_file="none.pkl")
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(DataError, match=r"accepted are a dict with `infos`.*got \['other'\]"):
        NuScenesDataset(tmp_path, ann_file="odd.pkl")
    with pytest.raises(DataError, match="no scenes"):
        NuScenesDataset(root, version="v1.0-mini", scenes=["scene-9999"])
    data = NuScenesDataset(root, version="v1.0-mini")
    file = root / data.samples[0].camera("CAM_BACK").file
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match="the image is missing"):
        data[0]
    file.write_bytes(content)


def test_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-mini" / "scene.json").write_text("{")
    with pytest.raises(DataError, match=r"scene\.json: is not JSON"):
        NuScenesDataset(tmp_path, version="v1.0-mini")


def test_poses_are_rigid(tables: Tables) -> None:
    for record in tables.table("calibrated_sensor").values():
        turn = pose(record)[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("calibrated_sensor", {"rotation": [0, 0, 0, 0]}, "ValueError"),
        ("calibrated_sensor", {"camera_intrinsic": [1, 2]}, "ValueError"),
        ("ego_pose", {"translation": ["a", 0, 0]}, "ValueError"),
        ("ego_pose", {"translation": [float("nan"), 0, 0]}, "has NaN or infinity"),
        ("sample_data", {"ego_pose_token": "gone"}, "KeyError"),
        ("sample_data", {"calibrated_sensor_token": []}, "TypeError"),
        ("sensor", {"channel": []}, "TypeError"),
        ("sample_annotation", {"size": [1]}, "ValueError"),
        ("sample_annotation", {"num_lidar_pts": None}, "TypeError"),
    ],
)
def test_damaged_records_are_one_error(
    table: str, change: dict, reason: str, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "v1.0-mini", tmp_path / "v1.0-mini")
    path = tmp_path / "v1.0-mini" / f"{table}.json"
    path.write_text(json.dumps([record | change for record in json.loads(path.read_text())]))
    with pytest.raises(DataError, match=f"not tables of nuScenes.*({reason})"):
        list(Tables(tmp_path, "v1.0-mini").samples())


def test_which_samples_are_kept(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"data_root": root, "version": "v1.0-mini"}
    tokens = [each.token for each in NuScenesDataset(**settings).samples]
    for kept, options in {
        (0, 2, 4): {"load_interval": 2},
        (0, 1): {"indices": 2},
        (4, 5): {"indices": -2},
        (4, 0): {"load_interval": 2, "indices": [2, 0]},
    }.items():
        data = NuScenesDataset(**settings, **options)
        assert [each.token for each in data.samples] == [tokens[at] for at in kept], options
    for options, said in (
        ({"load_interval": 0}, "load_interval should be a number from 1 on, got 0"),
        ({"indices": [9]}, r"indices \[9\] are not among the 6 samples"),
    ):
        with pytest.raises(DataError, match=said):
            NuScenesDataset(**settings, **options)
    NuScenesDataset(**settings, modality={"use_camera": True}, pont_cloud_range=[0])
    assert caplog.messages == ["NuScenesDataset: pont_cloud_range has no effect"]
