"""Checkpoints that Cupola wrote itself: of a training, of a bundle, or of `cupola convert`."""

from pathlib import Path

from cupola.errors import CheckpointError
from cupola.weights.reading import read_metadata, read_torch

OWN = {"writer": "cupola"}  # the metadata of safetensors files
TRAINING = {"step", "validated", "stepper", "meter", "model"}  # the keys of a training checkpoint


def is_own(path: str | Path) -> bool:
    """Whether Cupola wrote a file, which then needs no conversion; False if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        if about := read_metadata(path):
            return about.get("writer") == OWN["writer"]
        content = read_torch(path)
    except CheckpointError:
        return False
    return isinstance(content, dict) and content.keys() >= TRAINING
