"""scripts/install.py: uv gets pip's settings, and pip takes over where uv fails."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install.py"
LISTING = """\
:env:.find-links='/a /b'
global.cert='/etc/ca.pem'
global.find-links='/old'
install.index-url='https://index.example/simple'
user.extra-index-url='file:///one\\nfile:///two'
user.quiet='1'
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_of_pip_become_variables_of_uv(script: ModuleType) -> None:
    assert script.uv_environment(LISTING, {"HOME": "/root"}) == {
        "HOME": "/root",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_FIND_LINKS": "/a,/b",
        "UV_INDEX": "file:///one file:///two",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_a_variable_that_is_set_wins_over_pip(script: ModuleType) -> None:
    made = script.uv_environment(LISTING, {"UV_FIND_LINKS": "/mine"})
    assert made["UV_FIND_LINKS"] == "/mine"


@pytest.mark.parametrize(("failing", "installers"), [("", ["uv"]), ("uv", ["uv", "pip"])])
def test_pip_installs_where_uv_fails(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    failing: str,
    installers: list[str],
) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, int(command[2] == failing), stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    script.install(tmp_path, ["-r", "some.lock"])
    made = [command[2] for command in calls if command[-2:] == ["-r", "some.lock"]]
    assert made == installers
