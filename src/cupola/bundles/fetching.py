"""A file from the web: complete under its name, or not there at all.

Published names end in the first digits of the file's SHA-256 (resnet50-0676ba61.pth), which are
compared.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT = 30.0  # seconds without an answer, or without a byte more of it
PART = 1 << 20  # bytes read at once
DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


class FetchError(Exception):
    """Why a file could not be fetched."""


def fetch(url: str, path: Path) -> None:
    """Writes the file at an http or https URL to `path`; FetchError, and then it is not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check(path.name, _copied(url, partial))
        partial.replace(path)
    except HTTPError as error:
        error.close()
        raise FetchError(str(error)) from None
    except (OSError, HTTPException) as error:
        raise FetchError(str(getattr(error, "reason", error))) from None
    finally:
        partial.unlink(missing_ok=True)


def _copied(url: str, path: Path) -> str:
    """The SHA-256 of the file, which is written to `path`; FetchError if it is cut off."""
    digest, count = hashlib.sha256(), 0
    request = Request(url, headers={"User-Agent": "cupola"})
    with urlopen(request, timeout=TIMEOUT) as answer, path.open("wb") as file:
        length = int(answer.headers.get("Content-Length") or 0)
        with _shown(answer, url.rpartition("/")[2], length) as source:
            while part := source.read(PART):
                file.write(part)
                digest.update(part)
                count += len(part)
    if length and count != length:
        raise FetchError(f"the connection ended after {count:,} of {length:,} bytes")
    return digest.hexdigest()


def _check(name: str, digest: str) -> None:
    expected = DIGEST.search(name)
    if expected and not digest.startswith(expected[1]):
        raise FetchError(
            f"its SHA-256 begins with {digest[: len(expected[1])]}, not with {expected[1]}"
        )


@contextmanager
def _shown(answer: BinaryIO, name: str, length: int) -> Iterator[Any]:
    """The answer, with a bar of what was read where somebody looks at a terminal."""
    if not sys.stderr.isatty():
        yield answer
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import wrap_file

    console = Console(stderr=True)
    shown = escape(name)
    with wrap_file(answer, length, description=shown, console=console, transient=True) as source:
        yield source
