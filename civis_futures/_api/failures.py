"""What a failed request says of the next one: whether to look it up, repeat it, or give up."""

from __future__ import annotations

from .._exceptions import PlatformError


def is_ambiguous(error: PlatformError) -> bool:
    """Whether the request may have taken effect on the platform although it failed here.

    So it is without an answer, after a failure inside the platform, and when the answer to what
    succeeded could not be read.
    """
    return error.sent and (error.status is None or error.status < 400 or error.status >= 500)


def is_hopeless(error: Exception) -> bool:
    """Whether the same request would fail again: refused, or never able to reach the platform."""
    if not isinstance(error, PlatformError):
        return False
    refused = error.status is not None and 400 <= error.status < 500 and error.status != 429
    return refused or not (error.sent or is_ambiguous(error))


def is_refused(error: Exception) -> bool:
    """Whether the platform does not take the request itself: it is not about who asks, or when."""
    if not isinstance(error, PlatformError) or error.status is None:
        return False
    return 400 <= error.status < 500 and error.status not in (401, 403, 408, 429)


def is_running_already(error: PlatformError) -> bool:
    """Whether a run was not started since the script has one that is active."""
    return error.status == 409 and "already" in str(error)


def is_stranger(error: Exception) -> bool:
    """Whether what answers, if anything, is no platform. To be asked at first contact only: later
    on it is a platform that has trouble.
    """
    return isinstance(error, PlatformError) and (error.status is None or error.status < 400)
