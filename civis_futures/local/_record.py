"""Every exchange as a line of JSON, for tests that hold the answers against the official spec.

Never a key, and of a file link neither signature nor bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

SPEC_PATH = "/endpoints"  # its answer is megabytes, and it is the spec itself


class Recorder:
    """Appends to a file that other platforms may be appending to as well."""

    def __init__(self, path: str | None) -> None:
        self._file: int | None = None
        if path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)

    def exchange(
        self, request: Request, body: Mapping[str, Any] | None, response: Response
    ) -> None:
        """Record a request to the API."""
        if self._file is None:
            return
        is_json = "json" in response.headers.get("content-type", "")
        answer = bytes(response.body) if is_json else b"null"
        if request.scope["path"].rstrip("/") == SPEC_PATH:
            answer = b"null"
        self._write(
            {**self._frame("api", request, response), "request_body": body},
            answer or b"null",
        )

    def link(self, request: Request, response: Response) -> None:
        """Record a transfer through a file link."""
        if self._file is not None:
            self._write({**self._frame("link", request, response), "request_body": None}, b"null")

    def _frame(self, kind: str, request: Request, response: Response) -> dict[str, Any]:
        return {
            "kind": kind,
            "method": request.method,
            "path": request.scope["path"],
            "query": request.url.query if kind == "api" else "",
            "request_headers": {"User-Agent": request.headers.get("user-agent", "")},
            "status": response.status_code,
            "response_headers": dict(response.headers),
        }

    def _write(self, frame: Mapping[str, Any], answer: bytes) -> None:
        """Write one line with one call, so that lines of two writers never mix."""
        assert self._file is not None
        line = json.dumps(frame)[:-1].encode() + b', "response_body": ' + answer + b"}\n"
        os.write(self._file, line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
