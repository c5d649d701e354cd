"""The index of the response cache: key, size, last use; SQLite, shared by all processes.

It only serves eviction. Answers are found by their path, so a lost or damaged index costs no
correctness: it is thrown away and the loader builds it again.
"""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TOUCH_EVERY = 1.0  # seconds between two notes of the same use
_TABLE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, size INTEGER, used REAL)"


class CacheIndex:
    """Rows for eviction. Errors of the database never reach a request."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.sqlite"
        self._touched: dict[str, float] = {}
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(_TABLE)
        return db

    def add(self, rows: Iterable[tuple[str, int, float]]) -> None:
        """Enters (key, size, last use)."""
        with suppress(sqlite3.Error):
            self._db.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", list(rows))

    def add_missing(self, rows: Iterable[tuple[str, int, float]]) -> None:
        """Enters rows that the loader found on disk and the index did not know."""
        with suppress(sqlite3.Error):
            self._db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", list(rows))

    def touch(self, key: str) -> None:
        """Notes a use, at most once a second for each key."""
        now = time.time()
        if now - self._touched.get(key, 0.0) > TOUCH_EVERY:
            if len(self._touched) > 10_000:
                self._touched.clear()
            self._touched[key] = now
            with suppress(sqlite3.Error):
                self._db.execute("UPDATE entries SET used = ? WHERE key = ?", (now, key))

    def remove(self, keys: Iterable[str]) -> None:
        """Forgets entries."""
        with suppress(sqlite3.Error):
            self._db.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])

    def size(self) -> int:
        """Bytes of all entries."""
        row = self._db.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()
        return int(row[0])

    def oldest(self, limit: int = 100) -> list[tuple[str, int, float]]:
        """The entries that have not been used for longest."""
        query = "SELECT key, size, used FROM entries ORDER BY used LIMIT ?"
        return list(self._db.execute(query, (limit,)))

    def close(self) -> None:
        """Closes the database."""
        self._db.close()
