"""Files that are found by name, by other processes and on other machines, too.

The platform has no list of Files. So each has a script beside it that is never run: its name says
what the File is called, which one it is, and when it was put there. Scripts are found by a part of
their name. One is made in one request, so there is no table that writers would have to share; and
it is made when the File is there, so that half of one is never found.
"""

from __future__ import annotations

import os
import re
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

from .._container.container import Container, script_that_is_never_run
from .._exceptions import PlatformError
from .._types import Job, JobKind

if TYPE_CHECKING:
    from .._api.client import PlatformClient

#: Named Files live so long, unless they are removed.
LIFE = timedelta(days=180)
#: What a name may consist of, so that a script's name can be taken apart again.
_NAME = re.compile(r"[^\[\]\n]{1,400}")
_TITLE = re.compile(
    r"civis_futures file (?P<name>.*) \[user (?P<user>\d+), file (?P<file>\d+), "
    r"(?P<size>\d+) bytes, at (?P<at>\d+)\]"
)
#: How many pages of a list are read at the most; 50 rows each.
PAGES = 200


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A File that has a name. `size` is in bytes, `created` in seconds since the epoch."""

    name: str
    file_id: int
    size: int
    created: float
    script_id: int


class NamedFiles:
    """All named Files of a user on one platform.

    Args:
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.

    Raises:
        CredentialsError: there is no key.
    """

    def __init__(self, platform: Any = None) -> None:
        self._platform = platform
        self._opened: tuple[int, PlatformClient] | None = None
        self._client()

    def find(self, prefix: str) -> dict[str, NamedFile]:
        """The Files whose names begin like this; of each name, the newest one.

        It makes one request for each 50 that it finds.

        Raises:
            PlatformError: the platform cannot be reached, or refuses.
        """
        client = self._client()
        user, found = str(client.me()), dict[str, NamedFile]()
        for page in range(1, PAGES + 1):
            rows, more = client.search_jobs(f"civis_futures file {prefix}", page)
            for row in rows:
                match = _TITLE.fullmatch(row.name)
                if match and match["user"] == user and match["name"].startswith(prefix):
                    name, at = match["name"], int(match["at"]) / 1000
                    file = NamedFile(name, int(match["file"]), int(match["size"]), at, row.job_id)
                    if name not in found or found[name].script_id < file.script_id:
                        found[name] = file
            if not more:
                break
        return found

    def put(self, name: str, source: BinaryIO, size: int) -> NamedFile:
        """Upload `size` bytes of `source`, and then give the File this name.

        An older File of this name is not found any more, but it is not removed. It takes two
        requests and the transfer.

        Raises:
            ValueError: the name is not allowed.
            PlatformError: the platform cannot be reached, or refuses.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name has 1 to 400 characters, without brackets: {name!r} is none")
        client = self._client()
        user, now = client.me(), round(time.time() * 1000)
        file_id = client.upload(source, size, "civis_futures.named", expires_in=LIFE)
        title = f"civis_futures file {name} [user {user}, file {file_id}, {size} bytes, at {now}]"
        body = script_that_is_never_run(title, Container(), "says what a File is called")
        job = client.create_script(JobKind.CONTAINER, body)
        return NamedFile(name, file_id, size, now / 1000, job.id)

    def read(self, file: NamedFile, target: BinaryIO) -> None:
        """Write the File's bytes to `target`. It takes one request and the transfer.

        Raises:
            LookupError: the File has expired, or was removed.
            PlatformError: the platform cannot be reached, or refuses.
        """
        client = self._client()
        try:
            client.download_to(file.file_id, target)
        except PlatformError:
            if client.get_file(file.file_id).stored:
                raise
            raise LookupError(f"{file.name!r} is not there any more") from None

    def remove(self, files: Iterable[NamedFile]) -> None:
        """Remove these Files and their bytes. It takes two requests for each.

        Raises:
            PlatformError: the platform cannot be reached, or refuses.
        """
        client = self._client()
        for file in files:
            try:
                client.archive(Job(file.script_id, JobKind.CONTAINER))
                client.set_file_expiry(file.file_id, datetime.now(UTC) + timedelta(seconds=1))
            except PlatformError as error:
                if error.status not in (404, 410):  # another process was quicker
                    raise

    def _client(self) -> PlatformClient:
        """One of this process: in a fork, connections are the parent's."""
        if self._opened is None or self._opened[0] != os.getpid():
            from .._api.client import PlatformClient, access  # slow to import

            client = PlatformClient(*access(self._platform))
            self._opened = os.getpid(), client
            weakref.finalize(self, _close, *self._opened)
        return self._opened[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Without platform and key: in a container, these are those of the environment."""
        return NamedFiles, ()


def _close(process: int, client: PlatformClient) -> None:
    if os.getpid() == process:
        client.close()
