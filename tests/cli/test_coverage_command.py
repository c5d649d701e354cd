"""`cupola coverage`: a line for each config, the classes they lack, totals, JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cupola.cli.main import app


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("model = dict(type='Alpha', neck=dict(type='Beta'))")
    (tmp_path / "b.py").write_text("model = dict(type='ResNet', depth=18)")
    (tmp_path / "c.py").write_text("lr = 1")
    return tmp_path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["coverage", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_line_for_each_config_and_totals(configs: Path) -> None:
    assert run(configs).splitlines() == [
        f"missing     {configs / 'a.py'}: Alpha, Beta",
        f"builds      {configs / 'b.py'}",
        f"no model    {configs / 'c.py'}",
        "3 files, 3 read, 2 with a model, 1 build",
    ]


def test_by_class(configs: Path) -> None:
    lines = run("--by-class", configs, configs / "a.py").splitlines()
    assert [line.split() for line in lines[1:-1]] == [["2", "0", "Alpha"], ["2", "0", "Beta"]]


def test_json(configs: Path) -> None:
    made = json.loads(run("--json", configs))
    assert made["totals"] == {"files": 3, "missing": 1, "builds": 1, "no model": 1}
    assert made["configs"][0]["missing"] == ["Alpha", "Beta"]
    assert made["classes"][0] == {"name": "Alpha", "configs": 1, "only": 0}


def test_a_plugin_adds_classes(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = (
        "from cupola import nn\nfrom cupola.registry import MODELS\n"
        "@MODELS.register_module(['CoverageAlpha', 'CoverageBeta'])\n"
        "class Alpha(nn.Module):\n"
        "    def __init__(self, neck):\n        super().__init__()\n"
    )
    (configs / "coverage_plugin.py").write_text(plugin)
    monkeypatch.syspath_prepend(configs)
    text = "model = dict(type='CoverageAlpha', neck=dict(type='CoverageBeta'))"
    (configs / "a.py").write_text(text)
    assert "missing" in run(configs / "a.py")
    assert "1 build" in run(configs / "a.py", "--plugin", "coverage_plugin")
