"""A model on the hub behind a server: downloaded before anything is forked, then from the cache."""

import io
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from serve_harness import Running, output, until

from cupola.bundles import Bundle
from cupola.errors import BundleError
from cupola.serve.settings.models import plan_models
from cupola.serve.settings.settings import Settings
from hub_server import serve_hub

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]
DIGITS = Bundle.load("detr-digits").path
MODEL = "hf://org/digits@v1"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that has the model, and an empty cache."""
    shutil.copytree(DIGITS, tmp_path / "hub/org/digits/v1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with serve_hub(tmp_path / "hub") as (_, url):
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url


def test_a_model_on_the_hub_is_served_and_reloaded_without_the_hub(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = {"bundle": MODEL, "optimization": "eager"}  # starts with less work than the default
    server = Running(tmp_path / "server", models=[served], plugins=[], compute_threads=1)
    server.start()
    try:
        server.wait_ready()
        assert "torch" not in Path(f"/proc/{server.pid}/maps").read_text()
        request = (DIGITS / "example/request.json").read_bytes()
        recorded = json.loads((DIGITS / "example/response.json").read_text())
        status, _, body = server.ask("POST", "/v2/models/detr-digits/infer", request)
        answer = json.loads(body)
        assert status == 200 and output(answer, "labels") == output(recorded, "labels")
        assert output(answer, "boxes") == pytest.approx(output(recorded, "boxes"), abs=0.1)
        assert_bombs_are_refused(server)
        server.reload()
        server.configure(models=[served, "hf://org/digits@v2"])
        server.signal(signal.SIGHUP)
        until(lambda: "not in the cache" in server.log(), what="the refused reload")
        assert server.ask("POST", "/v2/models/detr-digits/infer", request)[0] == 200
    finally:
        server.stop()


def assert_bombs_are_refused(server: Running) -> None:
    """A small file that decodes to 400 million pixels, a truncated file, and file headers only."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    bomb, before = file.getvalue(), server.runner_pid()
    assert len(bomb) < 200_000
    for body in (bomb, bomb[:1000], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        kind = {"Content-Type": "image/png"}
        status, _, text = server.ask("POST", "/v2/models/detr-digits/infer", body, kind)
        # the size in the header alone refuses it, before a runner sees it
        assert status == (413 if body.startswith(bomb[:1000]) else 400)
        assert json.loads(text)["error"]
    assert server.runner_pid() == before


def test_settings_say_what_is_not_in_the_cache(address: str) -> None:
    settings = Settings.model_validate({"models": [MODEL], "offline": True})
    with pytest.raises(BundleError, match=r"hf://org/digits@v1: not in the cache .* without"):
        plan_models(settings)
    (plan,) = plan_models(Settings.model_validate({"models": [MODEL]}))
    assert (plan.name, plan.task) == ("detr-digits", "detection")
    assert Bundle.load(plan.path).name == "detr-digits"
    assert plan_models(settings) == [plan]
