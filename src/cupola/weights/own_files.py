"""Checkpoints that Cupola wrote itself: of a training, of a bundle, or of `cupola convert`."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from cupola.errors import CheckpointError
from cupola.weights.reading import check_header, read_torch

OWN = {"writer": "cupola"}  # the metadata of safetensors files
TRAINING = {"step", "validated", "stepper", "meter", "model"}  # the keys of a training checkpoint


def is_own(path: str | Path) -> bool:
    """Whether Cupola wrote the file, which then needs no conversion; False if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("writer") == OWN["writer"]
    except (CheckpointError, SafetensorError, OSError, ValueError):
        pass
    try:
        content = read_torch(path)
    except CheckpointError:
        return False
    return isinstance(content, dict) and content.keys() >= TRAINING
