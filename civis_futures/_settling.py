"""The last step of a task: its outcome is made and put into its future. This runs user code.

Unpickling, callbacks and `retry_on` are the user's, and may take any time or raise anything; so all
of it happens on a lane of its own, and nothing here knows the manager.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ._events import Verdict
from ._future import ContainerFuture
from ._mailbox import PYTHON
from ._serialize import Outcome, Place, brief, lost_outcome, outcome_of
from ._wire import Answer

_log = logging.getLogger(__name__)


def outcome_from(
    cause: Answer | Verdict | Exception, fetched: bytes | None, place: Place
) -> Callable[[], Outcome]:
    """How to find out what a future gets; `fetched` are the bytes of an answer in a File."""
    if not isinstance(cause, Answer):
        return lambda: lost_outcome(cause, place)

    def outcome() -> Outcome:
        data = fetched
        if data is None and cause.data is not None:
            data = cause.data.inline_data()
        return outcome_of(cause, data, place, PYTHON)

    return outcome


def settle(future: ContainerFuture[Any], make: Callable[[], Outcome]) -> None:
    """Claim the future, unless it was cancelled, and settle it; callbacks run in here."""
    try:
        outcome = make()
    except BaseException as error:  # nothing may keep a future from its end
        _log.exception("the outcome of %s cannot be told", future.task)
        outcome = Outcome(exception=error)
    if not future.set_running_or_notify_cancel():
        return
    if outcome.exception is not None:
        future.set_exception(outcome.exception)
    else:
        future.set_result(outcome.result)


def ask_user(
    future: ContainerFuture[Any],
    retry_on: Callable[[BaseException], bool] | None,
    make: Callable[[], Outcome],
) -> tuple[bool, str]:
    """Whether the user's `retry_on` wants another attempt, and what for."""
    try:
        error = make().exception
        again = error is not None and retry_on is not None and bool(retry_on(error))
    except BaseException:  # of the user's own: then the call ends as it has ended
        _log.exception("retry_on of %s failed", future.task)
        return False, ""
    return again, "" if error is None else brief(error)
