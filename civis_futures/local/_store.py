"""What the platform remembers: one SQLite file and a folder of blobs.

The event loop's thread alone uses the connection, so there is no lock. The modules of the API write
their own SQL; here are only the tables, and the folder's lock against a second server. Ids of
different kinds start far apart, so that a mixed-up id is a 404 and not an accident.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Row = sqlite3.Row

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scripts (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL, hidden INTEGER NOT NULL DEFAULT 0,
  archived INTEGER NOT NULL DEFAULT 0, parent_id INTEGER, template_id INTEGER,
  published_as INTEGER, last_run_id INTEGER, last_success_id INTEGER, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS scripts_parent ON scripts (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS scripts_updated ON scripts (updated_at);
CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, script_id INTEGER NOT NULL, state TEXT NOT NULL,
  cancel_requested INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, updated_at REAL NOT NULL,
  started_at REAL, finished_at REAL, error TEXT, max_memory REAL, max_cpu REAL);
CREATE INDEX IF NOT EXISTS runs_script ON runs (script_id, id);
CREATE TABLE IF NOT EXISTS logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL, created_at REAL NOT NULL,
  level TEXT NOT NULL, message TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS logs_run ON logs (run_id, id);
CREATE TABLE IF NOT EXISTS outputs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL, object_type TEXT NOT NULL,
  object_id INTEGER NOT NULL, created_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS outputs_run ON outputs (run_id, id);
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, created_at REAL NOT NULL,
  expires_at REAL, description TEXT, blob TEXT NOT NULL, size INTEGER, parts INTEGER);
CREATE TABLE IF NOT EXISTS json_values (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS templates (
  id INTEGER PRIMARY KEY AUTOINCREMENT, script_id INTEGER NOT NULL, name TEXT NOT NULL, note TEXT,
  ui_report_id INTEGER, archived INTEGER NOT NULL, hidden INTEGER NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS placed (
  run_id INTEGER PRIMARY KEY, key TEXT NOT NULL, note TEXT NOT NULL);
"""

FIRST_IDS = {
    "scripts": 1_000,
    "runs": 300_000,
    "logs": 1,
    "outputs": 1,
    "files": 5_000_000,
    "json_values": 7_000_000,
    "templates": 90_000,
}


class StateInUseError(Exception):
    """Another server works on this folder."""


class Store:
    """The tables, the blobs and the run folders below one directory."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        for name in ("blobs", "work"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).chmod(0o700)
        for path in folder.glob("platform.sqlite*"):  # an earlier one may have been open to others
            path.chmod(0o600)
        self._lock = _lock(folder / "lock")
        #: Called after each change, with the table and the row's id.
        self.on_change: Callable[[str, int], None] = lambda _table, _key: None
        self.folder = folder
        self.blobs = folder / "blobs"
        self.work = folder / "work"
        self._connection = sqlite3.connect(folder / "platform.sqlite", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            if durable
            else "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;"
        )
        self._connection.executescript(SCHEMA)
        for table, first in FIRST_IDS.items():
            self._connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT ?, ? WHERE NOT EXISTS "
                "(SELECT 1 FROM sqlite_sequence WHERE name = ?)",
                (table, first, table),
            )
        self.secret = self._fact("secret", secrets.token_hex(32)).encode()
        self.name = self._fact("name", secrets.token_hex(4))  # others may see it

    def _fact(self, name: str, fresh: str) -> str:
        self.run("INSERT OR IGNORE INTO facts VALUES (?, ?)", name, fresh)
        row = self.one("SELECT value FROM facts WHERE name = ?", name)
        assert row is not None
        return str(row["value"])

    def one(self, sql: str, *values: Any) -> Row | None:
        """Return the first row, if any."""
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Return all rows."""
        return self._connection.execute(sql, values).fetchall()

    def count(self, sql: str, *values: Any) -> int:
        """Return the number that a SELECT COUNT gives."""
        return int(self._connection.execute(sql, values).fetchone()[0])

    def run(self, sql: str, *values: Any) -> None:
        """Execute one statement."""
        self._connection.execute(sql, values)

    def insert(self, table: str, **values: Any) -> int:
        """Add a row; the names come from our own code, the values are bound."""
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        cursor = self._connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values())
        )
        assert cursor.lastrowid is not None
        self.on_change(table, cursor.lastrowid)
        return cursor.lastrowid

    def update(self, table: str, key: int, **values: Any) -> None:
        """Change columns of one row."""
        changes = ", ".join(f"{name} = ?" for name in values)
        self._connection.execute(
            f"UPDATE {table} SET {changes} WHERE id = ?", (*values.values(), key)
        )
        self.on_change(table, key)

    def add_logs(self, run_id: int, lines: Iterable[tuple[float, str, str]]) -> None:
        """Append (time, level, message) lines in one transaction: 10 MB of output is 130,000."""
        with self.transaction():
            self._add_logs(run_id, lines)

    def _add_logs(self, run_id: int, lines: Iterable[tuple[float, str, str]]) -> None:
        self._connection.executemany(
            "INSERT INTO logs (run_id, created_at, level, message) VALUES (?, ?, ?, ?)",
            ((run_id, *line) for line in lines),
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make several statements one."""
        with self._connection:
            self._connection.execute("BEGIN")
            yield

    def place_run(
        self, run_id: int, key: str, note: str, lines: Iterable[tuple[float, str, str]]
    ) -> None:
        """Keep where a run is, for a server after this one, and what it has printed until then."""
        with self.transaction():
            self.run("INSERT OR REPLACE INTO placed VALUES (?, ?, ?)", run_id, key, note)
            self._add_logs(run_id, lines)

    def fail_unfinished(self, but: Collection[int] = ()) -> None:
        """Mark as failed the runs that a server left queued or running, but those that go on."""
        now = time.time()
        for row in self.all("SELECT id, state FROM runs WHERE state IN ('queued', 'running')"):
            if row["id"] in but:
                continue
            self.run("DELETE FROM placed WHERE run_id = ?", row["id"])
            why = f"Error on job: The local platform stopped while this run was {row['state']}."
            self.add_logs(row["id"], [(now, "error", why), (now, "error", "Failed")])
            self.update("runs", row["id"], state="failed", finished_at=now, updated_at=now)

    def close(self) -> None:
        """Close the file and release the folder."""
        self._connection.close()
        self._lock.close()


def document(row: Row) -> dict[str, Any]:
    """Return the stored document of a script."""
    found: dict[str, Any] = json.loads(row["doc"])
    return found


def _lock(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stream = os.fdopen(descriptor, "r+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise StateInUseError(f"another local platform is using {path.parent}") from None
    return stream
