"""A stretch of bytes to upload, from memory or from a file, never copied whole.

This room must not know where the bytes go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

#: What is uploaded from memory; anything else is a file object, which can seek.
Bytes = bytes | bytearray | memoryview

_CHUNK = 65_536


class Section:
    """`size` bytes of `source` from `start` on, by default from where it stands; a file object.

    Sections of one file share its position: they are read one after another, each from its start.
    """

    def __init__(self, source: Bytes | BinaryIO, size: int, start: int | None = None) -> None:
        self._source = source
        if start is None:
            start = 0 if isinstance(source, Bytes) else source.tell()
        self._start = start
        self.size = size
        self._position = self.seek(0)

    def part(self, start: int, size: int) -> Section:
        """`size` bytes of this section from `start` on."""
        return Section(self._source, size, self._start + start)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file; relative to the start or (os.SEEK_END) to the end of the section."""
        self._position = offset + (self.size if whence == os.SEEK_END else 0)
        if not isinstance(self._source, Bytes):
            self._source.seek(self._start + self._position)
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, size: int) -> bytes:
        """As of a file; but a source that ends before the section does is a ValueError."""
        size = min(size, self.size - self._position)
        first = self._start + self._position
        if isinstance(self._source, Bytes):
            chunk = bytes(memoryview(self._source).cast("B")[first : first + size])
        else:
            chunk = self._source.read(size)
        if size and not chunk:
            raise ValueError(f"the source ended {self.size - self._position:,} bytes too early")
        self._position += len(chunk)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        """Chunks, from the position to the end."""
        while chunk := self.read(_CHUNK):
            yield chunk
