"""Splits the body of a call into messages; a large one is written to shared memory."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cupola.serve.http.messages import HTTPError
from cupola.serve.settings.settings import Settings

PREFIX = 5  # bytes: whether it is compressed, and its size


@dataclass(slots=True)
class Message:
    """One serialized message, in memory or in a file."""

    body: bytes | bytearray
    spooled: Path | None
    compressed: bool

    def release(self) -> None:
        """Removes the file."""
        if self.spooled is not None:
            self.spooled.unlink(missing_ok=True)


def whole_message(data: bytes, settings: Settings) -> Message | None:
    """The message, if `data` is exactly one that stays in memory; else None."""
    size = len(data) - PREFIX
    if size < 0 or size > settings.shm_threshold or size > settings.max_body or data[0] > 1:
        return None
    if int.from_bytes(data[1:PREFIX], "big") != size:
        return None
    return Message(data[PREFIX:], None, data[0] == 1)


class MessageReader:
    """The messages of one call. HTTPError 413 for one that is too large, 503 without space."""

    def __init__(self, settings: Settings, new_path: Callable[[], Path]) -> None:
        self._settings, self._new_path = settings, new_path
        self._left = bytearray()
        self._size = -1  # of the message that arrives; -1: its prefix has not arrived
        self._compressed = False
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self.received = 0  # bytes of it

    @property
    def partial(self) -> bool:
        """Whether a part of a message has arrived."""
        return bool(self._left) or self._size >= 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes."""
        found, view = [], memoryview(data)
        while len(view):
            if self._size < 0:
                view = self._take_prefix(view)
            else:
                part, view = view[: self._size - self.received], view[self._size - self.received :]
                self._add(part)
            if self._size == self.received:
                found.append(self._complete())
        return found

    def _take_prefix(self, view: memoryview) -> memoryview:
        """Reads the prefix of a message, as far as it has arrived; returns what follows."""
        missing = PREFIX - len(self._left)
        self._left += view[:missing]
        if len(self._left) == PREFIX:
            self._begin()
        return view[missing:]

    def _add(self, part: memoryview) -> None:
        self.received += len(part)
        if self._file is None:
            self._left += part
        else:
            self._write(part)

    def _complete(self) -> Message:
        body, self._left = self._left, bytearray()
        if self._file is not None:
            self._file.close()
        message = Message(body, self._path, self._compressed)
        self._file, self._path, self._size, self.received = None, None, -1, 0
        return message

    def _begin(self) -> None:
        """Begins the message that the prefix announces."""
        self._compressed, size = self._left[0] == 1, int.from_bytes(self._left[1:PREFIX], "big")
        if self._left[0] > 1:
            raise HTTPError(400, "the message has an invalid prefix")
        if size > self._settings.max_body:
            raise HTTPError(413, f"message of {size} bytes, at most {self._settings.max_body}")
        self._left.clear()
        self._size = size
        if size > self._settings.shm_threshold:
            try:
                self._path = self._new_path()
                fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._file = os.fdopen(fd, "wb", buffering=0)
            except OSError as error:
                raise self._no_space(error) from None

    def _write(self, view: memoryview) -> None:
        assert self._file is not None
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._no_space(error) from None

    def _no_space(self, error: OSError) -> HTTPError:
        self.discard()
        return HTTPError(503, f"no space for the message: {error.strerror}")

    def discard(self) -> None:
        """Removes the part of a message that will not be completed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        self._left.clear()
        self._size, self.received = -1, 0
