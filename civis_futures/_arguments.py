"""What an executor may be told: each argument has its type and range, and else there is an error.

Knows what the arguments become, a `Policy` and the containers, and nothing of what is done with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from ._options import checked_name, number, whole
from ._state import Policy
from ._types import Container, Template

#: `max_workers` unless told otherwise. Containers cost money: not the size of this machine.
DEFAULT_WORKERS = 10
#: What `policy_of` and `check_types` look at, in their order.
OF_POLICY = ("max_workers", "max_tasks_per_worker", "idle_timeout", "lease")
OF_CALLS = ("max_retries", "retry_on", "memory_growth")
TYPED = ("container", "initializer", "initargs", "name", "requires", "session")


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError for the first name that is not known; it tells the nearest one that is."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), 1, 0.0)[0]
            raise TypeError(f"there is no option {name!r}: did you mean {nearest!r}?")


def policy_of(
    max_workers: int | None,
    max_tasks_per_worker: int | None,
    idle_timeout: float,
    lease: float,
) -> Policy:
    """The policy that these arguments ask for; TypeError or ValueError if they ask for none."""
    if max_tasks_per_worker is not None:
        whole("max_tasks_per_worker", max_tasks_per_worker)
    if not 0 <= number("idle_timeout", idle_timeout) < float("inf"):
        raise ValueError("idle_timeout must be a finite number of seconds, 0 or more")
    if not 0 < number("lease", lease) < float("inf"):
        raise ValueError("lease must be a finite number of seconds, above 0")
    return Policy(
        whole("max_workers", max_workers, DEFAULT_WORKERS),
        max_tasks_per_worker,
        float(idle_timeout),
        lease=float(lease),
    )


def check_types(
    container: object,
    initializer: object,
    initargs: object,
    name: object,
    requires: object,
    session: object = None,
) -> None:
    """Raise TypeError for the first argument that is of the wrong type."""
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if not isinstance(initargs, Iterable):
        raise TypeError("initargs must be an iterable")
    if name is not None and not isinstance(name, str):
        raise TypeError("name must be a str")
    if container is not None and not isinstance(container, Container | Template):
        raise TypeError("container must be a Container or a Template")
    if requires is not None and not isinstance(requires, Mapping):
        raise TypeError("requires must be a mapping from modules to their least versions")
    if session is not None:
        checked_name(session)
