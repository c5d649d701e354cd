"""Runners share their weights: converted once, mapped from one file."""

import resource
from pathlib import Path
from typing import Any

import pytest

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


def test_with_a_full_disk_weights_stay_private(tmp_path: Path, shared_weights: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no larger file can be written
    try:
        predictor = shared_weights.load_shared(str(BUNDLE), tmp_path, "detr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert predictor.name == "detr-digits"
    assert [path.name for path in tmp_path.iterdir()] == ["detr.lock"]
