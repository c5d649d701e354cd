"""Coverage: which configs are read and built, and which classes they lack."""

from pathlib import Path

import pytest

from cupola.errors import ConfigError
from cupola.runtime.coverage import MissingClass, by_class, config_files, cover, missing_classes

SHIPPED = Path(__file__).parents[2] / "src" / "cupola" / "configs" / "detr" / "detr_r50.py"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_config_of_ours_builds() -> None:
    covered = cover(SHIPPED)
    assert (covered.status, covered.missing, covered.error) == ("builds", (), "")


def test_all_missing_classes_are_named_at_once(tmp_path: Path) -> None:
    text = """
model = dict(
    type='mmdet.FasterRCNX',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN'),
                  init_cfg=dict(type='Pretrained', checkpoint='x')),
    neck=[dict(type='mmpretrain.FPX'), dict(type='FPN')],
    train_cfg=dict(assigner=dict(type='HungarianAssigner'), sampler=dict(type='PseudoSampleX')),
    test_cfg=dict(nms=dict(type='soft_nms')),
    head=dict(type='DETRHead', init_cfg=[dict(type='Normal'), dict(type='Abnormal')]))
"""
    covered = cover(write(tmp_path, "c.py", text))
    assert covered.status == "missing"
    assert covered.missing == ("Abnormal", "FPX", "FasterRCNX", "PseudoSampleX")


def test_names_are_looked_up_in_the_scope_of_the_config() -> None:
    assert missing_classes({"type": "ResNet", "neck": {"type": "FPN"}}, "mmdet") == set()
    assert missing_classes({"type": "ResNet", "neck": {"_scope_": "mmdet", "type": "FPN"}}) == set()
    assert missing_classes({"type": "elsewhere.ResNet"}) == {"ResNet"}


def test_a_model_that_fails_says_why_and_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "model = dict(type='ResNet', depth=51)")
    write(tmp_path, "b.py", "model = dict(type='ResNet', depth=18, pretrained='torchvision://x')")
    write(tmp_path, "c.py", "import os\nmodel = os.environ['HOME']")
    write(tmp_path, "d.py", "lr = 1")
    write(tmp_path, "notes.yml", "no: config")
    covered = [cover(path) for path in config_files([tmp_path])]
    assert [each.status for each in covered] == ["fails", "builds", "unreadable", "no model"]
    assert "51" in covered[0].error
    assert "c.py" in covered[2].error


def test_classes_are_sorted_by_the_configs_that_lack_them(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "model = dict(type='Alpha')")
    write(tmp_path, "b.py", "model = dict(type='Beta', head=dict(type='Gamma'))")
    write(tmp_path, "c.py", "model = dict(type='ResNet', depth=18, neck=dict(type='Gamma'))")
    covered = [cover(path) for path in config_files([tmp_path])]
    assert by_class(covered) == [
        MissingClass("Gamma", 2, 1),
        MissingClass("Alpha", 1, 1),
        MissingClass("Beta", 1, 0),
    ]


def test_paths_that_hold_no_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        config_files([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"a folder is searched for \*\.py"):
        config_files([tmp_path])
