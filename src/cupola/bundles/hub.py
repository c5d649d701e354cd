"""Bundles and checkpoints on the Hugging Face hub: `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`.

Only the files that loading needs are downloaded, and pickled weights only where there are no
safetensors. The server runs `main` in a process of its own, so that the master loads no HTTP client
and has no threads when it forks.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from cupola.errors import BundleError
from cupola.files import read_settings

PREFIX = "hf://"
ID = re.compile(r"hf://(?P<repo>[\w.-]+/(?P<name>[\w.-]+))(?:@(?P<revision>\S+))?")
CONFIG = "config.json"
# Of a bundle or a checkpoint, the files beside config.json and the weights.
BESIDE = {
    "card.md",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "build_record.json",
    "training.json",
}
WEIGHTS = ("weights.safetensors", "model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
MODEL = re.compile(r"([\w.-]+/)?[\w.-]+")  # the oldest models have no organization


class HubId(NamedTuple):
    """A repository, the last part of its name, and perhaps a branch, tag or commit."""

    repo: str
    name: str
    revision: str | None


def is_hub_id(source: object) -> bool:
    """Whether a source is meant to be on the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def parse(source: str) -> HubId:
    """The parts of an id; BundleError if it is not one."""
    found = ID.fullmatch(source)
    if found is None:
        raise BundleError(f"{source}: expected {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION")
    return HubId(found["repo"], found["name"], found["revision"])


def download(source: str, revision: str | None = None, offline: bool = False) -> Path:
    """The folder with the files of an id, downloaded where they are not in the cache.

    With `offline`, or the environment variable HF_HUB_OFFLINE, only the cache is used. BundleError
    says what to do.
    """
    from huggingface_hub import constants

    repo, _, named = parse(source)
    if revision is not None and named is not None and revision != named:
        raise BundleError(f"{source}: revision {revision!r} was given as well; name only one")
    revision = revision or named
    if offline or constants.HF_HUB_OFFLINE:
        folder = _cached(repo, revision)
        if folder is None:
            raise BundleError(_offline(source))
        return folder

    def choose(files: list[str]) -> list[str]:
        from huggingface_hub import hf_hub_download

        def read(name: str) -> Any:
            path = hf_hub_download(repo, name, revision=revision)
            return read_settings(Path(path), BundleError)

        return needed(source, files, read)

    return _download(source, repo, revision, choose)


def tokenizer_file(model: str, offline: bool = False) -> Path:
    """tokenizer.json or vocab.txt of a model on the hub, ORG/NAME or NAME, from the cache first.

    BundleError where it cannot be had.
    """
    from huggingface_hub import constants

    if MODEL.fullmatch(model) is None:
        raise BundleError(f"{model}: neither a folder nor a model on the hub")
    for name in TOKENIZERS:
        if (folder := _cached(model, None, name)) is not None:
            return folder / name
    if offline or constants.HF_HUB_OFFLINE:
        raise BundleError(_offline(model))

    def choose(files: list[str]) -> list[str]:
        found = next((name for name in TOKENIZERS if name in files), None)
        if found is None:
            raise BundleError(f"{model}: holds none of {', '.join(TOKENIZERS)}")
        return [name for name in (found, "tokenizer_config.json") if name in files]

    folder = _download(model, model, None, choose)
    return next(folder / name for name in TOKENIZERS if (folder / name).is_file())


def _offline(source: str) -> str:
    from huggingface_hub import constants

    return (
        f"{source}: not in the cache ({constants.HF_HUB_CACHE}), and offline mode is on; "
        "load it once without --offline and HF_HUB_OFFLINE"
    )


def _cached(repo: str, revision: str | None, name: str = CONFIG) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True)).parent
    return None


def _download(
    source: str, repo: str, revision: str | None, choose: Callable[[list[str]], list[str]]
) -> Path:
    """The folder with those files of a repository that `choose` takes of all; BundleError."""
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    try:
        listed = HfApi().model_info(repo, revision=revision).siblings or []
        patterns = [escape(name) for name in choose([each.rfilename for each in listed])]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except BundleError:
        raise
    except errors.GatedRepoError:
        why = f"access must be asked for at {constants.ENDPOINT}/{repo}; then set HF_TOKEN"
    except errors.RevisionNotFoundError:
        why = f"there is no branch, tag or commit {revision!r}"
    except errors.RepositoryNotFoundError:
        why = "there is no such repository, or it is private and HF_TOKEN does not grant access"
    except Exception as error:  # each release of the client has its own errors for a lost network
        why = f"{constants.ENDPOINT} did not answer as expected ({type(error).__name__}: {error})"
        if _cached(repo, revision) is not None:
            why += "; a copy is in the cache, use it with --offline or HF_HUB_OFFLINE=1"
    raise BundleError(f"{source}: {why}")


def needed(source: str, files: Iterable[str], read: Callable[[str], Any]) -> list[str]:
    """Those of a repository's files that loading needs; `read` gives the content of a JSON file."""
    files = set(files)
    if CONFIG not in files:
        raise BundleError(f"{source}: holds no {CONFIG}, so it is not a bundle or checkpoint")
    weights = next((name for name in (*WEIGHTS, *PICKLED) if name in files), None)
    if weights is None:
        raise BundleError(f"{source}: holds none of {', '.join((*WEIGHTS, *PICKLED))}")
    shards = _shards(source, weights, read) if weights.endswith(".index.json") else set()
    if absent := sorted(shards - files):
        raise BundleError(f"{source}: {weights} names {absent[0]}, which is not there")
    beside = {name for name in files if name in BESIDE or name.startswith("example/")}
    return sorted({CONFIG, weights} | shards | beside)


def _shards(source: str, index: str, read: Callable[[str], Any]) -> set[str]:
    try:
        return set(read(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{source}: {index} is not a shard index ({error!r})") from None


def main() -> None:
    """Prints {"folder": ...} of the id in the arguments, or {"error": ...}."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        found = {"folder": str(download(sys.argv[1], offline="--offline" in sys.argv))}
    except BundleError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
