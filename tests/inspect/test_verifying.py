"""Every shipped bundle verifies, and a damaged one is found out."""

import json
import shutil
from pathlib import Path

import pytest

from cupola.bundles import Bundle
from cupola.bundles.bundle import shipped_names
from cupola.runtime.verification import Check, verify_bundle


def checks(source: str | Path) -> dict[str, Check]:
    return {check.name: check for check in verify_bundle(Bundle.load(source))}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Bundle.load("detr-digits").path, tmp_path / "digits"))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_bundles_verify(name: str) -> None:
    assert [check.found for check in checks(name).values() if not check.passed] == []


def test_another_answer_is_found(digits: Path) -> None:
    path = digits / "example" / "response.json"
    answer = json.loads(path.read_text())
    answer["outputs"][1]["data"][0] -= 0.1
    path.write_text(json.dumps(answer))
    check = checks(digits)["example"]
    assert (check.passed, check.found) == (False, "not as recorded: scores")


def test_a_silent_card_and_a_wrong_hash_are_found(digits: Path) -> None:
    (digits / "card.md").write_text("# digits\n\nData, recipe and AP50.\n")
    config = json.loads((digits / "config.json").read_text())
    config["hashes"]["weights.safetensors"] = "0" * 64
    (digits / "config.json").write_text(json.dumps(config))
    found = checks(digits)
    assert found["card"].found == "lacks license"
    assert not found["hash"].passed and "not 0000000000000000" in found["hash"].found
