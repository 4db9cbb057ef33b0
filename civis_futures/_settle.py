"""An outcome goes into its future: the one place where futures end.

Callbacks, the user's code, run in here. This room must not know what made the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ._future import ContainerFuture
from ._serialize import Outcome

_log = logging.getLogger(__name__)


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
