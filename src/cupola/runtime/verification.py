"""Verifying a bundle: is it the one that was written, does it build, does it still answer alike?"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cupola.errors import CupolaError
from cupola.registry import BuildRecord
from cupola.runtime.building import build

# What a card has to tell, each with the words that show it.
CARD_TOPICS = {
    "data": ("data", "images", "scenes"),
    "license": ("licen",),
    "recipe": ("recipe", "train"),
    "metrics": ("metric", "ap50", "map", "rmse", "perplexity"),
}


class Check(NamedTuple):
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    said: str


def verify_bundle(folder: Path, config: Mapping[str, Any], card: str, weights: Path) -> list[Check]:
    """All checks of a bundle folder, in the order in which they are made.

    Hashes of config.json, what the card tells, the build against `build_record.json`, and the
    recorded request in `example/` against its recorded response; the last two where they exist.
    """
    checks = list(_hashes(folder, config))
    checks.append(_card(card))
    try:
        model = build(config["model"], weights=weights)
    except CupolaError as error:
        return [*checks, Check("build", False, str(error))]
    parameters = sum(p.numel() for p in model.parameters())
    checks.append(Check("build", True, f"{parameters} parameters, all of them loaded"))
    if (folder / "build_record.json").is_file():
        checks.append(
            _build_record(BuildRecord.load(folder / "build_record.json"), model.build_record)
        )
    return [*checks, *_example(folder)]


def _hashes(folder: Path, config: Mapping[str, Any]) -> Iterator[Check]:
    hashes = config.get("hashes", {})
    if "weights.safetensors" not in hashes:
        yield Check("hash", False, "config.json has no hash of weights.safetensors")
    for name, expected in hashes.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            yield Check("hash", False, f"{name}: missing")
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        said = f"{name}: {found[:16]}" + ("" if found == expected else f", not {expected[:16]}")
        yield Check("hash", found == expected, said)


def _card(card: str) -> Check:
    text = card.lower()
    missing = [t for t, words in CARD_TOPICS.items() if not any(w in text for w in words)]
    said = f"says nothing of {', '.join(missing)}" if missing else f"tells {', '.join(CARD_TOPICS)}"
    return Check("card", not missing, said)


def _build_record(recorded: BuildRecord, built: BuildRecord) -> Check:
    differences = recorded.compare(built)
    said = str(differences[0]) if differences else f"{len(built.parts)} parts, as recorded"
    return Check("build_record", not differences, said)


def _example(folder: Path) -> Iterator[Check]:
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.recorded_example import differing

    wrong = differing(Predictor.load(folder), folder)
    if wrong is not None:
        said = f"not as recorded: {', '.join(wrong)}" if wrong else "answered as recorded"
        yield Check("example", not wrong, said)
