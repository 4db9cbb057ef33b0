"""The index: which content is in which File of a platform, remembered from process to process.

One small file for each content, in the user's cache folder. Threads and processes share it without
a lock: an entry is written aside and then renamed into its place, the last one counts, and what
cannot be read is not there. Nothing depends on it but how much is uploaded: no error leaves this
room, and what it finds is asked of the platform before it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from pathlib import Path

from . import _wire

#: Entries that were not written for so long are removed, in seconds: longer than any File lives.
KEEP = 20 * 86400.0
_FOLDER = "civis_futures"


def cache_folder() -> Path | None:
    """Where the user's programs keep what they can do without; None if there is no such place."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative one is to be ignored, says its specification
        return Path(given) / _FOLDER
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _FOLDER


class Index:
    """The entries of one account on one platform, below the folder `root`."""

    def __init__(self, root: Path | None, platform: str, account: int) -> None:
        self._root = root
        whose = _wire.digest(f"{platform} {account}".encode())[:32]
        self._folder = None if root is None else root / "files" / whose
        self._swept = False

    def find(self, sha256: str, size: int) -> int | None:
        """The id of the File that had these bytes, unless it has expired."""
        if self._folder is None:
            return None
        try:
            entry = json.loads((self._folder / sha256).read_bytes())
            file_id, expires = entry["file_id"], entry["expires"]
            whole = type(file_id) is int and type(expires) in (int, float)
            fits = whole and entry["size"] == size and file_id > 0 and expires > time.time()
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return None
        return file_id if fits else None

    def note(self, sha256: str, size: int, file_id: int, expires: float) -> None:
        """These bytes are in this File, until `expires` (seconds since the epoch)."""
        if self._folder is None:
            return
        text = json.dumps({"file_id": file_id, "size": size, "expires": expires})
        aside = self._folder / f".{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside.write_text(text)
            os.replace(aside, self._folder / sha256)
        except OSError:  # a home that cannot be written, a full disk
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        self._sweep()

    def forget(self, sha256: str) -> None:
        """These bytes are in no File any more."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / sha256).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what nobody will use again, of all platforms; once in the life of an index."""
        if self._swept or self._root is None:
            return
        self._swept = True
        before = time.time() - KEEP
        with contextlib.suppress(OSError):
            for folder in (self._root / "files").iterdir():
                with contextlib.suppress(OSError):
                    for entry in folder.iterdir():
                        if entry.stat().st_mtime < before:
                            entry.unlink(missing_ok=True)
                    folder.rmdir()  # refused, unless it is empty
