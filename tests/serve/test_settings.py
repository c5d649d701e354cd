"""Settings: their three sources, errors with line numbers, and the generated page."""

from pathlib import Path

import pytest

from cupola.errors import BundleError, ConfigError
from cupola.serve.ipc.listeners import parse_address
from cupola.serve.master import systemd
from cupola.serve.master.checking import check_settings
from cupola.serve.settings.docs import document
from cupola.serve.settings.file import dump_settings, load_settings
from cupola.serve.settings.flags import collect_flags
from cupola.serve.settings.models import plan_models
from cupola.serve.settings.settings import Settings

YAML = "listen: [127.0.0.1:0]\nworkers: 2\nmodels:\n  - bundle: a\n    runners: 2\n  - b\n"
TOML = 'listen = "127.0.0.1:0"\nworkers = 2\n\n[[models]]\nbundle = "a"\nrunners = 2\n\n'


@pytest.mark.parametrize(("name", "text"), [("s.yaml", YAML), ("s.toml", TOML)])
def test_file_environment_and_flags(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert load_settings(file, {}, {}).worker_count == 2
    assert load_settings(file, {}, {}).models[0].runners == 2
    environment = {"CUPOLA_WORKERS": "3", "CUPOLA_PLUGINS": "a,b", "CUPOLA_MODELS": '["x"]'}
    assert load_settings(file, {}, environment).workers == 3
    assert load_settings(file, {}, environment).plugins == ["a", "b"]
    assert load_settings(file, {}, environment).models[0].bundle == "x"
    assert load_settings(file, {"workers": 4}, environment).workers == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.yaml", "listen: x:1\nworkrs: 3\n", r"s.yaml:2: unknown setting 'workrs'; did you mean"),
        ("s.yaml", "workers: 1\nbacklog: -3\n", r"s.yaml:2: backlog: .*greater than 0, got -3"),
        ("s.yaml", "a: [\n", r"s.yaml:2: "),
        ("s.yaml", "- 3\n", r"expected settings as"),
        ("s.yaml", YAML + "  - {bundle: c, runers: 1}\n", r"s.yaml:7: unknown .*'runners'"),
        ("s.toml", "workers = 1\nbacklogs = 3\n", r"s.toml:2: unknown setting 'backlogs'"),
        ("s.toml", TOML + "[[models]]\nbundle='b'\nrunners=0\n", r"s.toml:10: models.1.runners"),
        ("s.toml", "a = \n", r"s.toml: .*line 1"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(tmp_path / name, {}, {})


def test_other_sources_name_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"^workers.*'many'"):
        load_settings(None, {}, {"CUPOLA_WORKERS": "many"})
    with pytest.raises(ConfigError, match="--set expects NAME=VALUE"):
        collect_flags(assignments=["workers"])
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(Path("/nowhere.yaml"), {}, {})


def test_a_dump_loads_back_equal(tmp_path: Path) -> None:
    settings = Settings(workers=3, models=["a"], pid_file=Path("/x"))  # type: ignore[list-item]
    (tmp_path / "s.yaml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "s.yaml", {}, {}) == settings


def test_check_finds_the_errors_of_a_start(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: neither a bundle folder nor"):
        check_settings(None, {"models": ["nowhere"]})
    with pytest.raises(ConfigError, match="folder /nowhere does not exist"):
        check_settings(None, {"error_log": "/nowhere/log"})
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_settings(None, {"listen": ["8000"]})
    with pytest.raises(BundleError, match="not a bundle, it holds no config"):
        check_settings(None, {"models": [str(tmp_path)]})


def test_tensor_parallel_needs_a_language_model_and_a_master() -> None:
    split = {"bundle": "detr-digits", "tensor_parallel": 2}
    with pytest.raises(ConfigError, match="detr-digits: tensor_parallel: only for language models"):
        plan_models(Settings.model_validate({"models": [split]}))
    split["bundle"] = "bloom-tiny"
    (plan,) = plan_models(Settings.model_validate({"models": [split]}))
    assert plan.tensor_parallel == 2
    with pytest.raises(ConfigError, match="tensor_parallel needs master_process: on"):
        plan_models(Settings.model_validate({"models": [split], "master_process": False}))


def test_addresses() -> None:
    assert parse_address("[::1]:80")[1] == ("::1", 80)
    assert parse_address(":80")[1] == ("0.0.0.0", 80)
    assert parse_address("unix:/a")[1] == "/a"


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "settings.md"
    assert page.read_text() == document(), "run: python -m cupola.serve.settings.docs"


def test_systemd_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        systemd.ready("fine")
        assert b"READY=1\nMAINPID=" in listening.recv(1000)
        systemd.reloading()
        assert listening.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        systemd.stopping()
        assert listening.recv(1000) == b"STOPPING=1"
    assert not systemd.notify("READY=1")
