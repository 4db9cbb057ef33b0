"""A form upload, read as it comes: small fields first, then one file that goes straight to disk.

It accepts parts with or without a filename (some clients give every field one) and knows nothing
of signatures: the caller is asked once, when the file begins, where its bytes may go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from python_multipart.multipart import MultipartParser, parse_options_header

MOST_FIELD_BYTES = 20_000  # all fields but the file together


class FormError(Exception):
    """The body is not such a form."""


class TooLargeError(Exception):
    """There is more of it than allowed."""


class UploadForm:
    """The state of one upload; `fields` are complete when `allow` is called."""

    def __init__(self, allow: Callable[[dict[str, str]], Path], most: int) -> None:
        self.fields: dict[str, str] = {}
        self.size: int | None = None
        self._allow = allow
        self._most = most
        self._room = MOST_FIELD_BYTES
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._name = ""
        self._value = bytearray()
        self._file: IO[bytes] | None = None

    async def read(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Read the whole body, or raise FormError, TooLargeError or what `allow` raises."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise FormError("The body is not multipart/form-data")
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": lambda data, start, end: self._add(data[start:end]),
                "on_part_end": self._close_part,
            },
        )
        try:
            async for chunk in body:
                parser.write(chunk)
            parser.finalize()
        except ValueError as error:  # the parser's own errors are among them
            raise FormError(str(error)) from error
        finally:
            if self._file is not None:
                self._file.close()
        if self.size is None:
            raise FormError("POST requires exactly one file upload per request")

    def _begin(self) -> None:
        self._name, self._value = "", bytearray()

    def _add_header(self, which: int, data: bytes) -> None:
        self._spend(len(data))
        self._header[which] += data

    def _end_header(self) -> None:
        field, value = self._header
        if field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header = [bytearray(), bytearray()]

    def _open(self) -> None:
        if self._name == "file":
            if self.size is not None:
                raise FormError("POST requires exactly one file upload per request")
            self._file = self._allow(self.fields).open("wb")
            self.size = 0

    def _add(self, data: bytes) -> None:
        if self._file is None:
            self._spend(len(data))
            self._value += data
            return
        assert self.size is not None
        self.size += len(data)
        if self.size > self._most:
            raise TooLargeError
        self._file.write(data)

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._name:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _spend(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise FormError("The form's fields are too large")
