"""How content gets into a File: the one that the index knows, or else a new one.

It knows the platform, and nothing of calls; who else wants the same is the store's business.

The index is one small file for each content, in the user's cache folder, and so remembered from
process to process. Threads and processes share it without a lock: an entry is written aside and
then renamed into its place, the last one counts, and what cannot be read is not there. Nothing
depends on it but how much is uploaded: no error of it leaves this module, and the platform is asked
about what it finds before that is used.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from .. import _wire
from .._api.client import PlatformClient
from .._exceptions import PlatformError
from .._kept.folder import cache_folder, read_json, trusted, write_json
from .contents import LEAST_LIFE, Carrier, Content, ContentStore

#: Files of content live so long; those in use are given more before they end.
LIFE = timedelta(days=14)
_GONE = (403, 404, 410)

#: Entries that were not written for so long are removed, in seconds: longer than any File lives.
KEEP = 20 * 86400.0


class Deposit:
    """What one pool does for content: over its client, on its threads. Any thread may call.

    `run` starts a piece of work soon, on a thread that may wait.
    """

    def __init__(
        self, store: ContentStore, client: PlatformClient, run: Callable[[Callable[[], None]], None]
    ) -> None:
        self._store = store
        self._client = client
        self._carrier = Carrier(run, self.deposit)
        self._index: Index | None = None
        self._puts: set[Future[None]] = set()

    def gather(
        self, contents: Iterable[Content], done: Callable[[BaseException | None], None]
    ) -> None:
        """As of the store."""
        self._store.gather(contents, self._carrier, done)

    def put(self, contents: Iterable[Content]) -> None:
        """Begin to upload these. If it fails, the calls that need them try again, and tell."""
        ended: Future[None] = Future()
        # Not on this thread: a signal's handler may interrupt it while it has the store's lock, and
        # wait for the threads that upload. And first, since what never begins is not waited for.
        self._carrier.run(partial(self.gather, tuple(contents), partial(_end, ended)))
        self._puts.add(ended)
        ended.add_done_callback(self._puts.discard)

    def finish(self, broken: Exception | None) -> None:
        """Wait for what was put, unless the pool is broken: other pools may have use for it."""
        if broken is None:
            wait(tuple(self._puts))

    def leave(self) -> None:
        """The pool ends."""
        self._store.leave(self._carrier)

    def forget(self, contents: Iterable[Content]) -> None:
        """Workers could not fetch one of these: later calls bring them anew."""
        for content in contents:
            self._store.forget(content)
            self._carrier.run(partial(self._forget, content.sha256))

    def deposit(self, content: Content) -> tuple[int, float]:
        """The id of a File with this content, and its end, in seconds since the epoch.

        A File that only the index knows is asked for first, once: it may have expired, or be
        another platform's.

        Raises:
            PlatformError: the platform cannot be reached or refuses, or the bytes are gone.
        """
        index = self._open()
        sha256, size = content.sha256, content.size
        for file_id in {content.file_id, index.find(sha256, size)}:
            if file_id is not None and (expires := self._alive(file_id, content)) is not None:
                index.note(sha256, size, file_id, expires)
                return file_id, expires
        if content.data is None:
            raise PlatformError(f"the shared data of {size:,} bytes is no longer on the platform")
        file_id = self._client.upload(content.data, size, _name(content), expires_in=LIFE)
        expires = self._client.clock.now() + LIFE.total_seconds()
        index.note(sha256, size, file_id, expires)
        return file_id, expires

    def _forget(self, sha256: str) -> None:
        with contextlib.suppress(PlatformError):
            self._open().forget(sha256)

    def _open(self) -> Index:
        if self._index is None:
            client = self._client
            # Once the user is known, so is the platform's time.
            self._index = Index(cache_folder(), client.url, client.me(), client.clock.now)
        return self._index

    def _alive(self, file_id: int, content: Content) -> float | None:
        """The end of a File that has these bytes, by its name and size; put off if it is near.

        (A worker compares the bytes themselves with their digest.)
        """
        try:
            file = self._client.get_file(file_id)
            if not file.stored or file.name != _name(content) or file.size != content.size:
                return None
            now = self._client.clock.now()
            if file.expires is None:
                return now + 100 * LIFE.total_seconds()
            if file.expires - now > LEAST_LIFE:
                return file.expires
            expires = now + LIFE.total_seconds()
            self._client.set_file_expiry(file_id, datetime.fromtimestamp(expires, UTC))
            return expires
        except PlatformError as error:
            if error.status in _GONE:
                return None
            raise


def _end(put: Future[None], _: BaseException | None) -> None:
    put.set_result(None)


def _name(content: Content) -> str:
    return f"civis_futures.data.{content.sha256}"


class Index:
    """The entries of one account on one platform, below the folder `root`; `now` is its clock."""

    def __init__(
        self, root: Path | None, platform: str, account: int, now: Callable[[], float] = time.time
    ) -> None:
        self._root = root = trusted(root)
        self._now = now
        whose = _wire.digest(f"{platform} {account}".encode())[:32]
        self._folder = None if root is None else root / "files" / whose
        self._swept = False

    def find(self, sha256: str, size: int) -> int | None:
        """The id of the File that had these bytes, unless it has expired."""
        if self._folder is None:
            return None
        entry = read_json(self._folder / sha256)
        try:
            file_id, expires = entry["file_id"], entry["expires"]
            whole = type(file_id) is int and type(expires) in (int, float)
            fits = whole and entry["size"] == size and file_id > 0 and expires > self._now()
        except (TypeError, LookupError):
            return None
        return file_id if fits else None

    def note(self, sha256: str, size: int, file_id: int, expires: float) -> None:
        """These bytes are in this File, until `expires` (seconds since the epoch)."""
        if self._root is None or self._folder is None:
            return
        entry = {"file_id": file_id, "size": size, "expires": expires}
        write_json(self._root, ["files", self._folder.name], sha256, entry)
        self._sweep(self._folder / sha256)

    def forget(self, sha256: str) -> None:
        """These bytes are in no File any more."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / sha256).unlink(missing_ok=True)

    def _sweep(self, newest: Path) -> None:
        """Remove what will not be used again, of all platforms; once in the life of an index. What
        was just written tells the time, by the clock of the disk.
        """
        if self._swept or self._root is None:
            return
        self._swept = True
        with contextlib.suppress(OSError):
            before = newest.stat().st_mtime - KEEP
            for folder in (self._root / "files").iterdir():
                with contextlib.suppress(OSError):
                    for entry in folder.iterdir():
                        if entry.stat().st_mtime < before:
                            entry.unlink(missing_ok=True)
                    folder.rmdir()  # refused, unless it is empty
