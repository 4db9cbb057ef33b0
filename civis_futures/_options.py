"""What a user may ask for one call, checked; and a view of an executor that asks it for each.

Knows the leaves only: an executor is what has `submit` and `map` here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ._future import ContainerFuture
from ._types import ANY_RESOURCES, DEFAULT_RESOURCES, Resources, Terms, checked_resources

T = TypeVar("T")
RetryOn = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object] | None
)

#: What a session may be called.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9._-])?")
#: What `memory_growth` may lead to unless told otherwise, in MB.
MAX_MEMORY = 64_000.0


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


def checked_name(name: object) -> str:
    """The name of a session; TypeError or ValueError if it cannot be one."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a session must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 100 else f"{name[:40]}... ({len(name)} characters)"
        raise ValueError(
            f"{shown!r} cannot be the name of a session: it has 1 to 100 characters, of the "
            "letters A to Z and a to z, digits, dots, dashes, underscores and, inside, spaces; the "
            "first is a letter or a digit"
        )
    return name
