"""Runners share their weights: converted once, mapped from one file."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serve_harness import Running, output

from cupola.bundles import Bundle

BUNDLE = Bundle.load("detr-digits").path


@pytest.fixture
def shared_weights(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with sharing for models of any size. It imports torch."""
    from cupola.serve.runners import shared_weights

    monkeypatch.setattr(shared_weights, "SMALL", 0)
    return shared_weights


def test_weights_are_mapped_from_the_shared_file(tmp_path: Path, shared_weights: Any) -> None:
    first = shared_weights.load_shared(str(BUNDLE), tmp_path, "detr")
    assert (tmp_path / "detr.safetensors").exists()
    second = shared_weights.load_shared(str(BUNDLE), tmp_path, "detr")
    total = sum(tensor.nbytes for tensor in first.model.state_dict().values())
    for predictor in (first, second):
        assert shared_weights.mapped_bytes(predictor.model) > 0.9 * total
    same = first.model.state_dict().keys() == second.model.state_dict().keys()
    assert same and len(list(tmp_path.iterdir())) == 2


def test_a_folded_model_answers_like_the_original(tmp_path: Path, shared_weights: Any) -> None:
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.recorded_example import differing

    plain = Predictor.load(str(BUNDLE))
    for _ in range(2):
        folded = shared_weights.load_shared(str(BUNDLE), tmp_path, "detr")
        assert len(folded.model.state_dict()) < len(plain.model.state_dict())
        assert differing(folded, BUNDLE) == []
    weights = folded.model.state_dict().values()
    assert any(w.ndim == 4 and not w.is_contiguous() for w in weights)  # channels last, mapped


def test_with_a_full_disk_weights_stay_private(
    tmp_path: Path, shared_weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_weights, "_write", lambda *_: False)
    assert shared_weights.load_shared(str(BUNDLE), tmp_path, "detr").name == "detr-digits"


@pytest.mark.processes
def test_the_shipped_detector_answers_its_recorded_image(tmp_path: Path) -> None:
    server = Running(tmp_path, models=[str(BUNDLE)], plugins=[], compute_threads=1)
    server.start()
    try:
        server.wait_ready(90)
        status, _, body = server.ask(
            "POST", "/v2/models/detr-digits/infer", (BUNDLE / "example/request.json").read_bytes()
        )
        recorded = json.loads((BUNDLE / "example/response.json").read_text())
        answer = json.loads(body)
        assert status == 200 and output(answer, "labels") == output(recorded, "labels")
        assert output(answer, "boxes") == pytest.approx(output(recorded, "boxes"), abs=0.1)
        assert_bombs_are_refused(server)
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
