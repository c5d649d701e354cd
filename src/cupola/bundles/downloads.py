"""Checkpoints by URL, or by the names that configs use, in torch's folder of downloads."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cupola.bundles.hub import download, is_hub_id
from cupola.bundles.published_files import FILES, SITES
from cupola.errors import CheckpointError, did_you_mean

ADVICE = "download the file and pass its path"


def find_checkpoint(name: str | Path, offline: bool = False) -> Path:
    """The file or folder of a checkpoint's path, URL, name, or id on the hub.

    A path stays as it is, and is not looked at. A URL, and a name such as torchvision://resnet50,
    is looked for in torch's cache, where torchvision and MMDetection put theirs, and downloaded if
    it is not there. Raises CheckpointError if that is not possible, or not allowed by `offline` or
    the environment variable HF_HUB_OFFLINE; BundleError for a repository on the hub.
    """
    text = str(name)
    if is_hub_id(text):
        return download(text, offline=offline)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(name)
    if scheme in ("http", "https"):
        return _kept(text, _file_name(text), text, offline)
    if scheme not in SITES:
        known = ", ".join(f"{each}://" for each in ("https", "hf", *SITES))
        raise CheckpointError(f"{text}: expected a path, or a URL or name with {known}")
    return _named(text, scheme, rest, offline)


def cache() -> Path:
    """The folder of torch's downloaded checkpoints."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _named(text: str, scheme: str, rest: str, offline: bool) -> Path:
    """The file of a name; one that another release of its library has put there will do."""
    file = FILES[scheme].get(rest)
    if file is not None and (cache() / file.rpartition("/")[2]).is_file():
        return cache() / file.rpartition("/")[2]
    last = rest.rpartition("/")[2]
    for found in [cache() / last, *sorted(cache().glob(f"{last}-*.pth"))]:
        if last and found.is_file():
            return found
    if file is None:
        hint = did_you_mean(rest, FILES[scheme])
        raise CheckpointError(f"{text}: not in {cache()}, and no known name{hint}; {ADVICE}")
    url = file if "://" in file else SITES[scheme] + file
    return _kept(text, _file_name(url), url, offline)


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if name in ("", ".", "..") or "\0" in name:
        raise CheckpointError(f"{url}: cannot be downloaded (it names no file); {ADVICE}")
    return name


def _kept(text: str, name: str, url: str, offline: bool) -> Path:
    """The file of a URL in the cache, downloaded if it is not there."""
    path = cache() / name
    if path.is_file():
        return path
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise CheckpointError(f"{text}: not in {cache()}, and offline mode is on; {ADVICE}")
    from cupola.bundles.fetching import FetchError, fetch

    try:
        fetch(url, path)
    except FetchError as error:
        raise CheckpointError(f"{text}: cannot be downloaded ({error}); {ADVICE}") from None
    return path
