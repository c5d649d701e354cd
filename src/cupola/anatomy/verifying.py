"""Verifying a bundle: is it the one that was written, does it build, does it still answer alike?"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cupola.errors import CupolaError
from cupola.registry import Blueprint
from cupola.runtime.building import build

# What a card has to tell, each with the words that show it.
CARD_TOPICS = {
    "data": ("data", "pictures", "scenes"),
    "licence": ("licen",),
    "recipe": ("recipe", "train"),
    "metrics": ("metric", "ap50", "map", "rmse", "perplexity"),
}
TOLERANCE = 1e-3  # between machines and thread counts; a wrong weight differs by far more


class Check(NamedTuple):
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    said: str


def verify_bundle(folder: Path, config: Mapping[str, Any], card: str, weights: Path) -> list[Check]:
    """All checks of a bundle folder, in the order in which they are made.

    Hashes of config.json, what the card tells, the build against `blueprint.json`, and the
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
    if (folder / "blueprint.json").is_file():
        checks.append(_blueprint(Blueprint.load(folder / "blueprint.json"), model.blueprint))
    if all((folder / "example" / f"{n}.json").is_file() for n in ("request", "response")):
        checks.append(_example(folder))
    return checks


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


def _blueprint(recorded: Blueprint, built: Blueprint) -> Check:
    differences = recorded.compare(built)
    said = str(differences[0]) if differences else f"{len(built.parts)} parts, as recorded"
    return Check("blueprint", not differences, said)


def _example(folder: Path) -> Check:
    """Runs example/request.json (Open Inference Protocol) against example/response.json."""

    from cupola.runtime.predictor import Predictor

    example = folder / "example"
    request = json.loads((example / "request.json").read_text("utf-8"))
    recorded = json.loads((example / "response.json").read_text("utf-8"))
    predictor = Predictor.load(folder)
    tensors = {each["name"]: _tensor(each) for each in request["inputs"]}
    parameters = request.get("parameters", {})
    found = predictor.encode(predictor.run(predictor.decode(tensors, parameters)), parameters)
    for each in recorded["outputs"]:
        if not _alike(_tensor(each), found.get(each["name"])):
            return Check("example", False, f"the output {each['name']!r} is not as recorded")
    return Check("example", True, f"{len(recorded['outputs'])} outputs as recorded")


def _tensor(spec: Mapping[str, Any]) -> Any:
    """A tensor of the protocol's JSON as a numpy array; BYTES as objects."""
    import numpy as np

    names = {"FP32": "float32", "FP64": "float64", "BOOL": "bool", "BYTES": "object"}
    kind = names.get(spec["datatype"], str(spec["datatype"]).lower())
    return np.array(spec["data"], dtype=kind).reshape(spec["shape"])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _alike(wanted: Any, got: Any) -> bool:
    import numpy as np

    if got is None or wanted.shape != np.shape(got):
        return False
    if wanted.dtype == object:
        return [_text(v) for v in wanted.ravel()] == [_text(v) for v in np.ravel(got)]
    return bool(np.allclose(wanted, got, rtol=TOLERANCE, atol=TOLERANCE))
