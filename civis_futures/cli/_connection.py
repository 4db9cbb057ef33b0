"""The way of the commands to the platform: by the environment, as for an executor.

Its errors are the user's mistakes (no key, a wrong address, an id that is not there) or the
platform's trouble; both become one line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from .._exceptions import CredentialsError, PlatformError
from .._pacing import default_pacing
from ._terms import MistakeError, UnavailableError

if TYPE_CHECKING:
    from .._api.client import PlatformClient


@contextlib.contextmanager
def connected(
    heard: Callable[[str, str, Mapping[str, str]], None] | None = None,
) -> Iterator[PlatformClient]:
    """A client of the platform that the environment names, closed at the end; `heard` is as of
    `PlatformClient`.
    """
    from .._api.client import PlatformClient, access  # slow to import, and `local` needs none

    if not os.environ.get("CIVIS_API_KEY", "").strip():
        raise MistakeError("there is no API key: set CIVIS_API_KEY")
    try:
        client = PlatformClient(*access(), patience=default_pacing().command, heard=heard)
    except (CredentialsError, ValueError) as error:
        raise MistakeError(_line(error)) from None
    with contextlib.closing(client):
        try:
            client.me()  # so that all commands report a wrong address or key as such
            yield client
        except PlatformError as error:
            raise _named(error, client.url) from None


def _named(error: PlatformError, url: str) -> Exception:
    said = _line(error)
    if error.status == 403 and not error.path.endswith("/users/me"):
        return MistakeError(f"the key in CIVIS_API_KEY may not do this: {said}")
    if error.status in (401, 403):
        return MistakeError(f"the platform refuses the key in CIVIS_API_KEY: {said}")
    no_such_page = error.status is not None and (error.status < 400 or error.status == 404)
    if error.status is None or (error.path.endswith("/users/me") and no_such_page):
        return MistakeError(f"there is no platform at {url}: {said}")
    if error.status == 429 or error.status >= 500:
        return UnavailableError(f"the platform has trouble: {said}")
    return MistakeError(said)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
