"""The index of the response cache: key, size and last use, in SQLite, shared by all processes.

It is needed for eviction only. Answers are found by their path, so a lost or damaged index does no
harm: it is deleted, and the loader rebuilds it.
"""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TOUCH_INTERVAL = 1.0  # seconds between two updates of the same entry
_TABLE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, size INTEGER, used REAL)"


class CacheIndex:
    """One row per entry. Database errors never reach a request."""

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
        """Adds or replaces rows of (key, size, last use)."""
        with suppress(sqlite3.Error):
            self._db.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", list(rows))

    def add_missing(self, rows: Iterable[tuple[str, int, float]]) -> None:
        """Adds rows for files on disk that are not in the index."""
        with suppress(sqlite3.Error):
            self._db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", list(rows))

    def touch(self, key: str) -> None:
        """Records a use, at most once a second per key."""
        now = time.time()
        if now - self._touched.get(key, 0.0) > TOUCH_INTERVAL:
            if len(self._touched) > 10_000:
                self._touched.clear()
            self._touched[key] = now
            with suppress(sqlite3.Error):
                self._db.execute("UPDATE entries SET used = ? WHERE key = ?", (now, key))

    def remove(self, keys: Iterable[str]) -> None:
        """Removes rows."""
        with suppress(sqlite3.Error):
            self._db.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])

    def size(self) -> int:
        """Total size of all entries in bytes."""
        row = self._db.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()
        return int(row[0])

    def oldest(self, limit: int = 100) -> list[tuple[str, int, float]]:
        """The least recently used entries."""
        query = "SELECT key, size, used FROM entries ORDER BY used LIMIT ?"
        return list(self._db.execute(query, (limit,)))

    def close(self) -> None:
        """Closes the database."""
        self._db.close()
