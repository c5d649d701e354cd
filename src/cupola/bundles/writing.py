"""Writes a bundle: all of it, or nothing."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cupola.bundles.bundle import Bundle
from cupola.weights.own_files import OWN


def write_bundle(
    folder: str | Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype = torch.float16,
    about: Mapping[str, str] = OWN,
) -> Bundle:
    """Writes config, weights (floating tensors as `dtype`) and card; returns the bundle.

    `about` is the metadata of the weights' file.

    The folder appears at once, complete; one that exists keeps its other files (logs, examples).
    The weights' SHA-256 goes into the config, where `cupola verify` finds it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary) / folder.name
        if folder.exists():
            shutil.copytree(folder, draft)
        draft.mkdir(exist_ok=True)
        save_file(_smaller(state, dtype), draft / "weights.safetensors", dict(about))
        (draft / "weights.safetensors").chmod(0o644)  # safetensors writes for the owner alone
        hashes = {"weights.safetensors": sha256(draft / "weights.safetensors")}
        text = json.dumps({**config, "hashes": hashes}, indent=2, ensure_ascii=False) + "\n"
        (draft / "config.json").write_text(text, encoding="utf-8")
        (draft / "card.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        draft.rename(folder)
    return Bundle.load(folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _smaller(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors to write; those that layers share are copied, as safetensors demands."""
    smaller: dict[str, Tensor] = {}
    storages = set()
    for key, value in state.items():
        wanted = dtype if value.is_floating_point() else value.dtype
        smaller[key] = value.detach().to("cpu", wanted).contiguous()
        if (storage := smaller[key].untyped_storage().data_ptr()) in storages:
            smaller[key] = smaller[key].clone()
        storages.add(storage)
    return smaller
