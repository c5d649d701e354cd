"""Verifies a bundle: its files are unchanged, it builds, and it still gives its recorded answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cupola.bundles import Bundle
from cupola.bundles.writing import sha256
from cupola.errors import CupolaError
from cupola.registry import BuildRecord
from cupola.runtime.building import build
from cupola.runtime.load import load_predictor
from cupola.runtime.recorded_example import differing

# What a card must cover, each with words of which one must occur.
CARD_TOPICS = {
    "data": ("data", "images", "scenes"),
    "license": ("licen",),
    "recipe": ("recipe", "train"),
    "metrics": ("metric", "ap50", "map", "rmse", "perplexity"),
}


class Check(NamedTuple):
    """The result of one check, with what was found."""

    name: str
    passed: bool
    found: str


def verify_bundle(bundle: Bundle) -> list[Check]:
    """All checks of a bundle, in the order in which they are made.

    The hashes in config.json, the topics of the card, the build against `build_record.json`, and
    the recorded request in `example/` against its recorded response; the last two where they exist.
    """
    checks = [*_hashes(bundle.path, bundle.config), _card(bundle.card)]
    try:
        model = build(bundle.model_config, weights=bundle.weights_path)
    except CupolaError as error:
        return [*checks, Check("build", False, str(error))]
    parameters = sum(p.numel() for p in model.parameters())
    checks.append(Check("build", True, f"{parameters} parameters, all loaded"))
    record = bundle.path / "build_record.json"
    if record.is_file():
        checks.append(_build_record(BuildRecord.load(record), model.build_record))
    return [*checks, *_example(bundle)]


def _hashes(folder: Path, config: Mapping[str, Any]) -> Iterator[Check]:
    hashes = config.get("hashes", {})
    if "weights.safetensors" not in hashes:
        yield Check("hash", False, "config.json has no hash of weights.safetensors")
    for name, expected in hashes.items():
        outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
        if outside or not (folder / name).is_file():
            yield Check("hash", False, f"{name}: missing")
            continue
        found = sha256(folder / name)
        differs = "" if found == expected else f", not {expected[:16]}"
        yield Check("hash", found == expected, f"{name}: {found[:16]}{differs}")


def _card(card: str) -> Check:
    text = card.lower()
    missing = [t for t, words in CARD_TOPICS.items() if not any(w in text for w in words)]
    found = f"lacks {', '.join(missing)}" if missing else f"covers {', '.join(CARD_TOPICS)}"
    return Check("card", not missing, found)


def _build_record(recorded: BuildRecord, built: BuildRecord) -> Check:
    differences = recorded.compare(built)
    found = str(differences[0]) if differences else f"{len(built.parts)} parts, as recorded"
    return Check("build_record", not differences, found)


def _example(bundle: Bundle) -> Iterator[Check]:
    wrong = differing(load_predictor(bundle), bundle.path)
    if wrong is not None:
        found = f"not as recorded: {', '.join(wrong)}" if wrong else "answered as recorded"
        yield Check("example", not wrong, found)
