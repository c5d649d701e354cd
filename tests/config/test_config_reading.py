"""The spellings of published configs: lazy bases, packages, formats, values, dump and diff."""

import json
import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.config import Config, diff
from cupola.config.budget import Budget
from cupola.config.formats import write as write_config
from cupola.config.functions import METHODS, Functions
from cupola.config.overrides import parse_value
from cupola.errors import ConfigError


def load(folder: Path, **files: str) -> dict[str, Any]:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(dedent(text))
    return Config.load(path).to_dict()


def test_the_expressions_of_published_configs(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        here="""
        from copy import deepcopy
        import math
        classes = ('a', 'b')
        size, half = 64, 32
        scales = [size * 2**i for i in range(3)] if half < size else []
        metainfo = {'classes': classes, 'palette': [(i, i) for i, _ in enumerate(classes)]}
        anns = {name: f'{name}_{len(classes):02d}.json' for name in classes if name != 'b'}
        pipeline = [dict(type='Load'), *[dict(type=f'T{i}') for i in range(2)]]
        test = deepcopy(pipeline)
        test[0].update(file='%s.pkl' % 'x', ratio=1 / 2, angle=math.pi // 1, neg=-3)
        test.insert(1, dict(type='New'))
        del test[-1]
        total = sum([1, 2]) if len(test) > 2 and not anns.get('q') else None
        for step in (1, 2):
            total += step
        parts = 'a/{}'.format(size).replace('a', 'b').split('/')
        """,
    )
    assert made["scales"] == [64, 128, 256]
    assert made["metainfo"]["palette"] == [(0, 0), (1, 1)]
    assert made["anns"] == {"a": "a_02.json"}
    assert made["test"][0] == {"type": "Load", "file": "x.pkl", "ratio": 0.5, "angle": 3, "neg": -3}
    assert [step["type"] for step in made["test"]] == ["Load", "New", "T0"]
    assert made["pipeline"][0] == {"type": "Load"}
    assert (made["total"], made["parts"]) == (6, ["b", "64"])
    assert "deepcopy" not in made and "math" not in made


def test_lazy_configs(tmp_path: Path) -> None:
    base = """
        from mmdet.models import DETR, ResNet as Net
        model = dict(type=DETR, backbone=dict(type=Net, depth=50, norm=dict(a=1, b=2)))
        epochs = 12
    """
    child = """
        from mmengine.config import read_base
        import torch.nn as nn
        with read_base():
            from .base import *
            from .base import epochs as base_epochs
        model.update(dict(backbone=dict(depth=101)))
        model.merge(dict(backbone=dict(norm=dict(_delete_=True, type=nn.BatchNorm2d))))
        epochs = base_epochs * 2
    """
    made = load(tmp_path, base=base, child=child)
    assert made["model"] == {
        "type": "mmdet.models.DETR",
        "backbone": {
            "type": "mmdet.models.ResNet",
            "depth": 101,
            "norm": {"type": "torch.nn.BatchNorm2d"},
        },
    }
    assert made["epochs"] == 24 and "DETR" not in made and "nn" not in made


def test_lazy_mistakes(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("x = 1")
    with pytest.raises(ConfigError, match=r":2: .*the base has no variable 'y'"):
        load(tmp_path, here="with read_base():\n    from .base import y")
    with pytest.raises(ConfigError, match=r":2: only `from X import Y` is allowed in"):
        load(tmp_path, here="with read_base():\n    x = 1")
    with pytest.raises(ConfigError, match="'base' is a package, and no config in one"):
        load(tmp_path, here="with read_base():\n    from base import *")


def test_bases_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = tmp_path / "site" / "somepkg" / ".mim" / "configs" / "detr"
    configs.mkdir(parents=True)
    (tmp_path / "site" / "somepkg" / "__init__.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (configs / "x.py").write_text("_base_ = '../base.py'\nlr = 1")
    (configs.parent / "base.py").write_text("model = dict(type='A', inner=dict(type='B'))")
    made = load(tmp_path, here="_base_ = ['somepkg::detr/x.py']\nlr = 2")
    assert made["lr"] == 2
    assert made["model"] == {"type": "A", "inner": {"type": "B"}, "_scope_": "somepkg"}


def test_bases_of_an_unpacked_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package itself does not install."""
    configs = tmp_path / "wheels" / "mmdet3d" / ".mim" / "configs" / "_base_"
    configs.mkdir(parents=True)
    (configs / "run.py").write_text("x = 1")
    named = "_base_ = 'mmdet3d::_base_/run.py'"
    beside = "_base_ = '../../mmdetection3d/configs/_base_/run.py'"
    project = tmp_path / "a" / "b" / "configs"
    project.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"'mmdet3d' is not installed. Its wheel will do, unpack"):
        load(project, here=named)
    monkeypatch.setenv("CUPOLA_CONFIG_PATH", str(tmp_path / "wheels"))
    for text in (named, beside):
        assert load(project, here=text)["x"] == 1


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".json", '{"_base_": "base.py", "x": {"b": 2}, "name": "{{ fileBasename }}"}'),
        (".yaml", "_base_: base.py\nx: {b: 2}\nname: '{{ fileBasename }}'"),
        (".toml", "_base_ = 'base.py'\nname = '{{ fileBasename }}'\n[x]\nb = 2"),
    ],
)
def test_other_formats(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / "base.py").write_text("x = dict(a=1)")
    path = tmp_path / f"here{suffix}"
    path.write_text(text)
    assert Config.load(path).to_dict() == {"x": {"a": 1, "b": 2}, "name": f"here{suffix}"}


@pytest.mark.parametrize("suffix", [".py", ".json", ".yaml"])
def test_a_dumped_config_reads_back(tmp_path: Path, suffix: str) -> None:
    cfg = Config(
        {"a": {"b-c": [1, {"d": None, "class": 1.5}], "e": "ü'\n"}, "f": [], "g": [[1] * 40]}
    )
    cfg.dump(tmp_path / f"out{suffix}")
    assert Config.load(tmp_path / f"out{suffix}") == cfg


def test_the_dumped_python_is_readable() -> None:
    made = Config({"x": (1,), "y": {"type": "T", "z": float("inf"), "w": "a" * 80}}).dump()
    assert (
        made == f"x = (1,)\ny = dict(\n    type='T',\n    z=float('inf'),\n    w='{'a' * 80}',\n)\n"
    )
    with pytest.raises(ConfigError, match="is not data and cannot be written"):
        Config({"x": object()}).dump()
    with pytest.raises(ConfigError, match=r"as \.py, \.json or \.yaml, not '\.ini'"):
        Config({}).dump("x.ini")
    with pytest.raises(ConfigError, match="cannot be the name of a variable"):
        Config({"a b": 1}).dump()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-4", 1e-4),
        ("True", True),
        ("false", False),
        ("None", None),
        ("abc", "abc"),
        ("'abc'", "abc"),
        ("1,2", [1, 2]),
        ("[1]", [1]),
        ("(1,)", (1,)),
        ("[(1,2),[a,b],c]", [(1, 2), ["a", "b"], "c"]),
        ("[]", []),
        ("./a=b", "./a=b"),
    ],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("a", "'a' is not an override; write key.path=value"),
        ("x.9=1", "x.9: the list has only 2 elements"),
        (f"x.{'9' * 5000}=1", "the list has only 2 elements"),
        ("x.²=1", "x.²: a list needs a number here"),
        ("x.b=1", "x.b: a list needs a number here"),
        ("y.z.w=1", "y.z: a dict cannot be merged into 3 of the base"),
        ("y=[1", "the brackets in '\\[1' do not match"),
    ],
)
def test_overrides_that_do_not_fit(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config({"x": [1, 2], "y": {"z": 3}}).override([option])


def test_diff_names_values_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = dict(a=1, b=2)\nold = 1")
    (tmp_path / "b.py").write_text("x = dict(a=1,\n b=3)\nnew = [5]")
    changes = diff(Config.load(tmp_path / "a.py"), Config.load(tmp_path / "b.py"))
    assert [str(c) for c in changes] == ["~ x.b = 2 -> 3", "- old = 1", "+ new.0 = 5"]
    assert changes[0].left_origin.endswith("a.py:1") and changes[0].right_origin.endswith("b.py:2")


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = dict(a=1, b=[2])")
    (tmp_path / "b.py").write_text("_base_ = 'a.py'\nx = dict(a=9)")
    run = CliRunner().invoke
    shown = run(app, ["config", "show", str(tmp_path / "b.py"), "--set", "x.b.0=7"])
    assert shown.output == "x = dict(a=9, b=[7])\n"
    as_json = run(app, ["config", "show", str(tmp_path / "b.py"), "--key", "x", "--format", "json"])
    assert json.loads(as_json.output) == {"x": {"a": 9, "b": [2]}}
    origins = run(app, ["config", "show", str(tmp_path / "b.py"), "--origins"]).output
    assert f"x.a = 9  # {tmp_path / 'b.py'}:2" in origins
    compared = run(app, ["config", "diff", str(tmp_path / "a.py"), str(tmp_path / "b.py")])
    assert (compared.exit_code, compared.output) == (1, "~ x.a = 1 -> 9\n")


@pytest.mark.parametrize("suffix", [".py", ".json"])
def test_a_deprecated_file_warns_and_reads(tmp_path: Path, suffix: str) -> None:
    note = {"expected": "new.py", "reference": "the notes"}
    text = f"_deprecation_ = {note!r}\nx = 1\n"
    if suffix == ".json":
        text = json.dumps({"_deprecation_": note, "x": 1})
    path = tmp_path / f"old{suffix}"
    path.write_text(text)
    with pytest.warns(FutureWarning, match=r"old\S+ is to be replaced; use new.py \(see the notes"):
        assert Config.load(path).to_dict() == {"x": 1}


def test_no_escape_sequence_of_a_config_reaches_the_terminal(tmp_path: Path) -> None:
    text = r"x = {'a.b': 1, 'k\x1b[31m': '\x1b[2J\x9b31m\u202e', 3: {4: 5}}"
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "b.py").write_text("x = {}\n" + r"y = dict()['\x1b[2J']")
    path = str(tmp_path / "a.py")
    run = CliRunner().invoke
    for arguments in (
        ["config", "show", path],
        ["config", "show", path, "--origins"],
        ["config", "show", path, "--format", "json"],
        ["config", "show", path, "--format", "yaml"],
        ["config", "diff", path, path],
    ):
        done = run(app, arguments)
        assert done.exit_code == 0, done.output
        assert done.output.isascii() and done.output.replace("\n", "").isprintable(), arguments
    origins = run(app, ["config", "show", path, "--origins"]).output
    assert f"x.a.b = 1  # {path}:1" in origins and f"x.3.4 = 5  # {path}:1" in origins
    with pytest.raises(ConfigError) as caught:
        Config.load(tmp_path / "b.py")
    assert str(caught.value).isprintable()


def test_what_json_and_yaml_cannot_hold_is_one_error() -> None:
    for suffix in (".json", ".yaml"):
        with pytest.raises(ConfigError, match="the config cannot be written as "):
            write_config({"x": {1, 2}}, suffix)


def test_bases_and_variables_that_a_command_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = tmp_path / "wheels" / "somepkg" / ".mim" / "configs"
    configs.mkdir(parents=True)
    (configs / "x.py").write_text("key = '{{$API_KEY:none}}'")
    (tmp_path / "here.py").write_text("_base_ = 'somepkg::x.py'")
    monkeypatch.setenv("API_KEY", "hunter2")
    run, show = CliRunner().invoke, ["config", "show", str(tmp_path / "here.py")]
    found = [*show, "--config-path", str(tmp_path / "wheels")]
    assert "--config-path or CUPOLA_CONFIG_PATH names" in str(run(app, show).exception)
    assert "allow it with --env API_KEY" in str(run(app, found).exception)
    assert run(app, [*found, "--env", "API_KEY"]).output == "key = 'hunter2'\n"
    assert "CUPOLA_CONFIG_PATH" not in os.environ and "CUPOLA_CONFIG_ENV" not in os.environ


def test_the_document_lists_what_a_config_may_use() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configs.md").read_text(encoding="utf-8")
    functions = Functions(Budget())
    assert f"`{' '.join(sorted(functions.table))}`" in text
    for names in METHODS.values():
        assert f"`{' '.join(sorted(names))}`" in text
    for name in ("math", "os.path"):
        assert f"`{' '.join(sorted(functions.modules[name].members))}`" in text
