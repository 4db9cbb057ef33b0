"""What a user may ask for a pool and for one call: each argument has its type and range, or else
there is an error. And a view of an executor that asks the same for each call.

Knows what the arguments become, a `Policy` and the containers, and nothing of what is done with it:
an executor is what has `submit` and `map` here.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from .._container import DEFAULT_RESOURCES, Container, Template, checked_resources
from .._futures.future import ContainerFuture
from .._scheduling.state import Policy
from .._sessions.registry import checked_name
from .._types import ANY_RESOURCES, Resources, Terms

T = TypeVar("T")
RetryOn = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object] | None
)
#: What `memory_growth` may lead to unless told otherwise, in MB.
MAX_MEMORY = 64_000.0

#: `max_workers` unless told otherwise. Containers cost money: not the size of this machine.
DEFAULT_WORKERS = 10
#: What `policy_of` and `check_types` look at, in their order.
OF_POLICY = ("max_workers", "max_tasks_per_worker", "idle_timeout", "lease")
OF_CALLS = ("max_retries", "retry_on", "memory_growth")
TYPED = ("container", "initializer", "initargs", "name", "requires", "session")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call; see `ContainerPoolExecutor.options` for what they mean.

    Raises:
        TypeError, ValueError: an option has the wrong type, or is out of range.
    """

    max_retries: int = 0
    retry_on: RetryOn = None
    timeout: float | None = None
    queue_timeout: float | None = None
    label: str | None = None
    required_resources: Mapping[str, float] | None = None
    memory_growth: float | None = None
    max_memory: float = MAX_MEMORY

    def __post_init__(self) -> None:
        """What is wrong is wrong here."""
        whole("max_retries", self.max_retries, least=0)
        for name in ("timeout", "queue_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < number(name, value) < float("inf"):
                raise ValueError(f"{name} must be a finite number of seconds, above 0")
        # The other way round, what is not a number (nan) would pass.
        if self.memory_growth is not None and not number("memory_growth", self.memory_growth) > 1:
            raise ValueError("memory_growth must be above 1, for example 2.0")
        if not number("max_memory", self.max_memory) > 0:
            raise ValueError("max_memory must be a positive number of MB")
        if self.label is not None and not isinstance(self.label, str):
            raise TypeError("label must be a str")
        if not _is_retry_on(self.retry_on):
            raise TypeError("retry_on must be exception types, or a function of an exception")
        checked_resources(self.required_resources)

    def terms(self, base: Resources) -> Terms:
        """What is agreed with the scheduler; `base` is what a container of the pool has."""
        resources = base
        if self.required_resources is not None:
            known = base if base != ANY_RESOURCES else Resources(**DEFAULT_RESOURCES)
            resources = replace(known, **checked_resources(self.required_resources))
        return Terms(
            self.max_retries,
            self.timeout,
            self.queue_timeout,
            resources,
            self.memory_growth,
            self.max_memory,
            judged=self.retry_on is not None,
        )

    @property
    def wants_retry(self) -> Callable[[BaseException], bool] | None:
        """`retry_on` as a function."""
        wish = self.retry_on
        if wish is None:
            return None
        if isinstance(wish, type | tuple):
            kinds = wish
            return lambda error: isinstance(error, kinds)
        return lambda error: bool(wish(error))


def _is_retry_on(wish: Any) -> bool:
    """Whether it is None, a type of exceptions, some of these, or a function."""
    if isinstance(wish, type):
        return issubclass(wish, BaseException)
    if isinstance(wish, tuple):
        return all(isinstance(kind, type) and _is_retry_on(kind) for kind in wish)
    return wish is None or callable(wish)


def check_function(fn: object) -> None:
    """Raise TypeError if it is a generator function: what it returns could not be sent back."""
    plain = inspect.isroutine(fn) or isinstance(fn, partial | type)
    call = fn if plain else inspect.getattr_static(type(fn), "__call__", None)
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise TypeError(
            f"{fn!r} is a generator function, and a generator cannot be sent back. "
            "Return a list of what it yields; or submit a call for each."
        )


class Intake(Protocol):
    """What makes tasks of calls."""

    def submit(
        self, options: CallOptions, fn: Callable[..., T], args: Any, kwargs: Any
    ) -> ContainerFuture[T]:
        """The future of a call with these options."""

    @property
    def map(self) -> Callable[..., Iterator[Any]]:
        """The same for many calls: of options, function, iterables and what else `map` takes."""


class WithOptions:
    """A view of a `ContainerPoolExecutor`: the same pool, with options for each call.

    Made by `ContainerPoolExecutor.options`.
    """

    def __init__(self, executor: object, intake: Intake, options: CallOptions) -> None:
        self._executor = executor  # held: a forgotten executor shuts down
        self._intake = intake
        self._options = options

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> ContainerFuture[T]:
        """As `ContainerPoolExecutor.submit`, with these options."""
        return self._intake.submit(self._options, fn, args, kwargs)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **given: Any) -> Iterator[T]:
        """As `ContainerPoolExecutor.map`, with these options."""
        return self._intake.map(self._options, fn, iterables, **given)

    def options(self, **changes: Any) -> WithOptions:
        """The same view, with some options changed."""
        return WithOptions(self._executor, self._intake, replace(self._options, **changes))

    def __repr__(self) -> str:
        """Its options."""
        return f"<{type(self).__name__} {self._options}>"


def whole(name: str, value: int | None, default: int | None = None, *, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`; TypeError or ValueError otherwise."""
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def number(name: str, value: float) -> float:
    """`value` if it is a number; TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return value


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
    check_function(initializer)
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
