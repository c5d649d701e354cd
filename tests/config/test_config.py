"""Config: reading, merging, overrides, attributes, origins."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from cupola.config import Config
from cupola.errors import ConfigError


def write(folder: Path, **files: str) -> Path:
    """Writes NAME.py for each keyword; returns the path of the last."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(dedent(text))
    return path


def load(folder: Path, **files: str) -> dict[str, object]:
    return Config.load(write(folder, **files)).to_dict()


def test_a_child_merges_into_its_base(tmp_path: Path) -> None:
    base = "model = dict(type='A', neck=dict(type='N', dim=4), head=dict(type='H', x=1))"
    child = """
        _base_ = './base.py'
        model = dict(neck=dict(dim=8), head=dict(_delete_=True, type='G'))
    """
    assert load(tmp_path, base=base, child=child) == {
        "model": {"type": "A", "neck": {"type": "N", "dim": 8}, "head": {"type": "G"}}
    }


def test_two_bases_may_not_define_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.py:1: 'x' is defined by two bases: .*a\.py:1 and"):
        load(tmp_path, a="x = 1", b="x = 2", c="_base_ = ['a.py', 'b.py']")


def test_values_of_a_base_can_be_read_and_changed(tmp_path: Path) -> None:
    child = """
        _base_ = 'base.py'
        steps = [s * 2 for s in _base_.schedule.steps]
        alias = {{_base_.schedule}}
        _base_.schedule.update(dict(inner=dict(b=2)))
        del _base_.schedule['gone']
    """
    base = "schedule = dict(steps=[1, 2], inner=dict(a=1), gone=0)"
    made = load(tmp_path, base=base, child=child)
    assert made["steps"] == [2, 4]
    assert made["schedule"] == {"steps": [1, 2], "inner": {"a": 1, "b": 2}}


VARIABLES = """
    work = './work/{{ fileBasenameNoExtension }}'
    root = '{{$DATA_ROOT:/default}}/images'
    classes = {{'$CLASSES:80'}}
"""


def test_file_and_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, here=VARIABLES)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    monkeypatch.delenv("CLASSES", raising=False)
    default = {"work": "./work/here", "root": "/default/images", "classes": 80}
    assert Config.load(path).to_dict() == default
    monkeypatch.setenv("DATA_ROOT", "/data")
    for allowed in (["DATA_ROOT"], os.environ):
        assert Config.load(path, env=allowed).root == "/data/images"
    monkeypatch.setenv("CUPOLA_CONFIG_ENV", "OTHER,DATA_ROOT")
    assert Config.load(path).root == "/data/images"


def test_an_environment_variable_is_read_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2")
    path = write(tmp_path, base="token = '{{$API_TOKEN:}}'", here="x = 1\n_base_ = 'base.py'")
    with pytest.raises(ConfigError, match=r"base\.py:1: .*API_TOKEN.*--env API_TOKEN") as caught:
        Config.load(path)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("LONG", "x" * 200_000)
    with pytest.raises(ConfigError, match=r"the text for \{\{...\}\} is too large"):
        Config.load(write(tmp_path, here="x = '{{$LONG:}}'"), env=["LONG"])


def test_attributes_and_overrides() -> None:
    cfg = Config({"model": {"layers": [{"dim": 1}, {"dim": 2}], "name": "a"}})
    assert cfg.model.layers[1].dim == 2
    changed = cfg.override({"model.layers.1.dim": 9}).override(["model.name=b", "new.key=(1,None)"])
    assert changed.to_dict() == {
        "model": {"layers": [{"dim": 1}, {"dim": 9}], "name": "b"},
        "new": {"key": (1, None)},
    }
    with pytest.raises(AttributeError, match="no key 'modle' here; did you mean 'model'"):
        _ = cfg.modle


def test_an_override_leaves_the_config_as_it_was(tmp_path: Path) -> None:
    cfg = Config.load(write(tmp_path, a="model = dict(layers=[dict(dim=1)], neck=dict(dim=2))"))
    before = cfg.to_dict()
    changed = cfg.override({"model.layers.0.dim": 9})
    changed.model.neck.dim = 3  # nor is a part shared that the override did not touch
    assert cfg.to_dict() == before
    assert changed.to_dict() == {"model": {"layers": [{"dim": 9}], "neck": {"dim": 3}}}
    assert changed.filename == cfg.filename
    assert changed.origin("model.neck.dim") == cfg.origin("model.neck.dim")


def test_reading_a_config_loads_the_standard_library_only(tmp_path: Path) -> None:
    path = write(tmp_path, a="x = dict(y=1)")
    code = (
        "import sys; from cupola.config import Config\n"
        f"assert Config.load({str(path)!r}).override({{'x.y': 2}}).x.y == 2\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'typer', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, f'{heavy} was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_origins_name_the_line_that_wrote_a_value(tmp_path: Path) -> None:
    base = "model = dict(\n    type='A',\n    neck=dict(dim=4))"
    path = write(tmp_path, base=base, child="_base_ = 'base.py'\nmodel = dict(neck=dict(dim=8))")
    cfg = Config.load(path)
    assert str(cfg.origin("model.type")).endswith("base.py:2")
    assert str(cfg.origin("model.neck.dim")).endswith("child.py:2")
