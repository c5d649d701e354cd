"""The models of mmdet's published configs, with the keys that mmdet builds; see goldens/README.md.

The keys of all make 45 MB of text. Models are parsed when tests are collected, keys when a test
asks for them.
"""

import json
import lzma
from typing import Any

from zoo import FOLDER

Keys = list[list[Any]]  # name, shape and type of each tensor of the state dict

with lzma.open(FOLDER / "published_models.tsv.xz", "rt") as file:
    _LINES = [line.split("\t") for line in file]
PUBLISHED: dict[str, dict[str, Any]] = {config: json.loads(model) for config, model, _ in _LINES}
_KEYS = {config: text for config, _, text in _LINES}


def published_keys(config: str, part: str = "") -> Keys:
    """Of a config's model, or of one part of it, "backbone" or "neck", by the part's own names."""
    keys: Keys = json.loads(_KEYS[config])
    start = f"{part}." if part else ""
    return [[key.removeprefix(start), *rest] for key, *rest in keys if key.startswith(start)]


def has_keys(config: str, part: str) -> bool:
    """Whether a part has a parameter or a buffer."""
    return f'["{part}.' in _KEYS[config]
