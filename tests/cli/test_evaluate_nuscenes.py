"""`cupola evaluate` on nuScenes tables: splits, results, errors."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cupola.cli.evaluate import app
from cupola.data.driving.tables import write_scenes
from cupola.data.nuscenes_splits import VAL, _names, scenes_of
from cupola.data.nuscenes_tables import Tables
from cupola.errors import DataError, InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write_scenes(folder, count=10, frames=1, size=(24, 40))
    return folder


def run(root: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        app, ["detr3d-scenes", "--data", str(root), *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_mini_split(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results_nusc.json"
    said = run(root, "--version", "v1.0-mini", "--json", "--results", str(out))
    scores = json.loads(said)
    assert {"mAP", "NDS", "mAAE", "AP/car", "AP/bicycle"} <= scores.keys()
    written = json.loads(out.read_text())
    tables = Tables(root, "v1.0-mini")
    tokens = [record.token for record in tables.samples(["scene-0103", "scene-0916"])]
    assert list(written["results"]) == tokens
    assert written["meta"]["use_camera"] is True
    row = next(row for rows in written["results"].values() for row in rows)
    assert set(row) == {
        *("sample_token", "translation", "size", "rotation", "velocity"),
        *("detection_name", "detection_score", "attribute_name"),
    }
    other = run(root, "--split", "mini_train", "--json", "--results", str(out))
    assert json.loads(other) != scores
    assert len(json.loads(out.read_text())["results"]) == 8


def test_a_test_split_without_truth(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v1.0-test"
    folder.mkdir()
    for table in (root / "v1.0-mini").glob("*.json"):
        rows = json.loads(table.read_text())
        if table.stem in ("sample_annotation", "instance"):
            rows = []
        elif table.stem in ("scene", "sample"):
            rows = rows[:2]  # one sample a scene
        (folder / table.name).write_text(json.dumps(rows))
    (tmp_path / "samples").symlink_to(root / "samples")
    out = tmp_path / "results_nusc.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUPOLA_FOLLOW_LINKS", "1")
        assert run(tmp_path, "--split", "test", "--json", "--results", str(out)) == "{}\n"
        assert "no annotations" in run(tmp_path, "--results", str(out))
    assert len(json.loads(out.read_text())["results"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "v1.0-mni"], "folder of nuScenes tables not found"),
        (["--split", "val"], "--split val: v1.0-mini has mini_val and mini_train"),
        (["--split", "mini_vall"], "is not one of mini_val, .*mini_val"),
        (["--annotations", "x.json"], "--annotations has no effect"),
    ],
)
def test_errors(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((DataError, InputError), match=message):
        run(root, *arguments)


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name its --version.*no folder of tables"):
        run(tmp_path)


def test_splits(root: Path) -> None:
    assert len(_names(VAL)) == 150
    tables = Tables(root, "v1.0-mini")
    assert set(scenes_of(tables, None)) == {"scene-0103", "scene-0916"}
    assert len(scenes_of(tables, "mini_train")) == 8
    tables.version = "v1.0-trainval"
    tables._read["scene"] = {"a": {"name": "scene-0003"}, "b": {"name": "scene-0001"}}
    assert scenes_of(tables, None) == ["scene-0003"]
    assert scenes_of(tables, "train") == ["scene-0001"]
    tables.version = "annotation"
    assert len(scenes_of(tables, None)) == 2
    with pytest.raises(DataError, match="annotation has no official splits"):
        scenes_of(tables, "val")
    tables.version, tables._read["scene"] = "v1.0-trainval", {"b": {"name": "scene-0001"}}
    with pytest.raises(DataError, match="has no scene of val"):
        scenes_of(tables, None)


def test_a_model_of_streams_sees_each_scene_in_time(tmp_path: Path) -> None:
    from cupola.cli.nuscenes_evaluation import predicted
    from cupola.structures import Detections3D

    write_scenes(tmp_path, count=2, frames=3, size=(24, 40))
    tables = Tables(tmp_path, "v1.0-mini")

    class Recorder:
        """Its state counts the frames of a stream."""

        labels, camera_names, is_stream = ("car",), (), True

        def __init__(self) -> None:
            self.steps: list[tuple[int, float, float]] = []

        def sample(self, images, matrices, names, ego_pose, timestamp, can_bus):
            assert can_bus.shape == (18,)
            return ego_pose, timestamp

        def run_frame(self, sample, state):
            count = 0 if state is None else state
            self.steps.append((count, sample[1], float(sample[0][3, 3])))
            nothing = torch.zeros(0)
            return Detections3D(torch.zeros(0, 9), nothing, nothing.long(), self.labels), count + 1

    predictor = Recorder()
    predicted(predictor, tables, [each["name"] for each in tables.table("scene").values()])
    assert [count for count, _, _ in predictor.steps] == [0, 1, 2, 0, 1, 2]
    times = [seconds for _, seconds, _ in predictor.steps]
    assert times[1] - times[0] == pytest.approx(0.5) == times[2] - times[1]
