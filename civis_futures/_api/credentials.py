"""Which platform, with which key, and how the key is shown. This module must not speak to one.

It imports nothing slow, as an executor resolves its credentials long before its first request.
"""

from __future__ import annotations

import base64
import os
from typing import NamedTuple

from .._exceptions import CredentialsError
from .._public import version

#: Certificates to believe of the platform at `CIVIS_API_ENDPOINT`, as PEM, and no others there.
CA_CERTS_VARIABLE = "CIVIS_FUTURES_CA_CERTS"
DEFAULT_URL = "https://api.civisanalytics.com/"


class Access(NamedTuple):
    """How one platform is reached: what a `PlatformClient` is made of, in this order."""

    url: str
    key: str
    #: Certificates as PEM: they are believed there, and no others. None: those of everybody else.
    ca_certs: str | None = None
    #: Whether no proxy leads there, whatever the environment says.
    direct: bool = False


def access(platform: object = None) -> Access:
    """How the platform is reached that `platform` names; the errors are those of `credentials`.

    All of it is the environment's, or all is the object's; one with an attribute `ca_certs` is a
    local platform, and has no proxy before it.
    """
    url, key = credentials(platform)
    if hasattr(platform, "ca_certs"):
        return Access(url, key, platform.ca_certs, direct=True)
    if platform is not None and not hasattr(platform, "_session_kwargs"):
        return Access(url, key)
    given = os.environ.get("CIVIS_API_ENDPOINT") and os.environ.get(CA_CERTS_VARIABLE)
    return Access(url, key, given or None, direct=bool(given))


def credentials(platform: object = None) -> tuple[str, str]:
    """The (url, key) that `platform` names: the environment's if it is None.

    A `civis.APIClient` names the key that it uses, and the URL is the environment's.

    Raises:
        CredentialsError: there is no key, or it cannot be one.
        TypeError: `platform` lacks one of the attributes `url` and `api_key`.
    """
    # It has no public name for its key; nor may we import civis to ask what this is.
    session = getattr(platform, "_session_kwargs", None)
    url = os.environ.get("CIVIS_API_ENDPOINT") or DEFAULT_URL
    if isinstance(session, dict) and isinstance(session.get("api_key"), str):
        key = session["api_key"]
    elif platform is None:
        key = os.environ.get("CIVIS_API_KEY", "")
        if not key.strip():
            raise CredentialsError(
                "there is no API key: set CIVIS_API_KEY to run on Civis Platform, "
                'or pass platform="local" to run on this machine'
            )
    else:
        url, key = (_text_attribute(platform, name) for name in ("url", "api_key"))
    return with_slash(url), checked_key(key)


def with_slash(url: str) -> str:
    """`url` as a base: with a slash at its end."""
    return url if url.endswith("/") else url + "/"


def checked_key(key: str) -> str:
    """`key` without the space and newline that files and shells leave around it."""
    key = key.strip()
    # What a header cannot hold would be quoted by the errors of other libraries.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialsError("the API key is empty, or has characters that no API key has")
    return key


def headers_for(key: str, auth: str) -> dict[str, str]:
    """What each request to the API carries; `auth` is "basic" or "bearer"."""
    if auth not in ("basic", "bearer"):
        raise ValueError(f"auth must be 'basic' or 'bearer', not {auth!r}")
    basic = "Basic " + base64.b64encode(f"{key}:".encode()).decode("ascii")
    headers = {
        "Authorization": basic if auth == "basic" else f"Bearer {key}",
        "User-Agent": f"civis-futures/{version()}",
    }
    # Inside a container: so that the platform can say who asked.
    for name in ("Job", "Run"):
        if value := os.environ.get(f"CIVIS_{name.upper()}_ID"):
            headers[f"X-Civis-{name}-ID"] = value
    return headers


def _text_attribute(platform: object, name: str) -> str:
    value = getattr(platform, name, None)
    if not isinstance(value, str):
        if isinstance(platform, str):
            found = _another_word(platform)
        elif isinstance(platform, type):
            found = f"{platform.__name__} is a class: pass an object, {platform.__name__}()"
        else:
            found = f"this {type(platform).__name__} has no .{name} that is a str"
        raise TypeError(
            'platform must be None, "local", or an object with .url and .api_key, both str; '
            f"{found}"
        )
    return value


def _another_word(given: str) -> str:
    """What was given in place of "local", if it cannot be the key, in an unlucky place."""
    import difflib  # seldom needed

    if difflib.get_close_matches(given.lower(), ["local"]):
        return f'not {given!r}: did you mean "local"?'
    if given.startswith(("http://", "https://")):
        return "an address needs a key: set CIVIS_API_ENDPOINT and CIVIS_API_KEY, without platform="
    return "this is another str"
