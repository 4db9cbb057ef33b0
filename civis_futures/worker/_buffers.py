"""The files of out-of-band buffers that this container has: each is fetched once, and kept.

Many calls refer to the same ones. It knows digests and sizes, and not what the bytes mean.
"""

from __future__ import annotations

import contextlib
import os

from ._platform import NoRoomError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._wire import Blob
    from ._platform import PlatformRequests


class Buffers:
    """Files in `folder`, by digest. `disk` is how much the container has, in MB."""

    def __init__(self, platform: PlatformRequests, folder: str, disk: float) -> None:
        self._platform = platform
        self._folder = folder
        self._limit = disk * 1e6 * 0.7  # for what no call at hand needs
        self._sizes: dict[str, int] = {}  # by digest; the least recently used one first
        self._held: dict[str, set[str]] = {}  # what each call at hand needs

    def hold(self, call: str, blobs: tuple[Blob, ...]) -> list[str]:
        """The paths of these, fetched if need be; they stay at least until `release`.

        Raises what `Platform.download` does.
        """
        self._held[call] = {blob.sha256 for blob in blobs}
        return [self._path_of(blob) for blob in blobs]

    def has(self, blobs: tuple[Blob, ...]) -> bool:
        """Whether these are here already."""
        return all(blob.sha256 in self._sizes for blob in blobs)

    def release(self, call: str) -> None:
        """The call is over."""
        self._held.pop(call, None)

    def _path_of(self, blob: Blob) -> str:
        path = self._path(blob.sha256)
        if self._sizes.pop(blob.sha256, None) is None or not os.path.exists(path):
            self._make_room(self._limit - blob.size)
            try:
                self._fetch(blob, path)
            except NoRoomError:  # there is less of it than we were told
                self._make_room(0)
                self._fetch(blob, path)
        self._sizes[blob.sha256] = blob.size
        return path

    def _fetch(self, blob: Blob, path: str) -> None:
        assert blob.file_id is not None, "buffers are in Files"
        try:
            self._platform.download(blob.file_id, path, blob)
        except BaseException:
            _remove(path)
            raise

    def _make_room(self, limit: float) -> None:
        """Remove what is not needed until the rest has at most `limit` bytes."""
        needed = set().union(*self._held.values())
        for digest in list(self._sizes):
            if sum(self._sizes.values()) <= limit:
                return
            if digest not in needed:
                # A process that has it mapped keeps it as long as it needs it.
                del self._sizes[digest]
                _remove(self._path(digest))

    def _path(self, digest: str) -> str:
        return os.path.join(self._folder, f"buffer-{digest}")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # user code may have emptied the folder
        os.unlink(path)
