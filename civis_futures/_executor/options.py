"""What a user may ask for a pool and for one call: each argument has its type and range, or else
there is an error.

Knows what the arguments become, and nothing of what is done with it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from .._container.container import (
    DEFAULT_RESOURCES,
    Container,
    Template,
    checked_resources,
    image_and_tag,
)
from .._futures.future import ContainerFuture
from .._futures.waiting import Dependency
from .._sessions.registry import checked_name
from .._types import ANY_RESOURCES, Resources, RetryOn, Terms, make_plain, number, whole

if TYPE_CHECKING:
    from .._data.own import Include
    from .._scheduling.state import Policy

After = Dependency | ContainerFuture[Any] | Iterable[ContainerFuture[Any]] | None
#: Up to so many workers read one inbox: where there are hundreds, what it has for each of them must
#: keep that one busy for long.
READERS = 25


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
    max_memory: float = 64_000.0  # MB
    requires: Mapping[str, str] | None = None
    priority: float = 0.0
    after: Any = ()

    def __post_init__(self) -> None:
        """Check the fields, and raise here what is wrong with them."""
        object.__setattr__(self, "after", _dependencies(self.after))
        make_plain(self, ("max_retries",), whole, least=0)
        make_plain(self, ("timeout", "queue_timeout", "memory_growth", "max_memory"), number)
        make_plain(self, ("priority",), number)
        for name in ("timeout", "queue_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number of seconds, above 0")
        # The other way round, what is not a number (nan) would pass.
        if self.memory_growth is not None and not self.memory_growth > 1:
            raise ValueError("memory_growth must be above 1, for example 2.0")
        if not self.max_memory > 0:
            raise ValueError("max_memory must be a positive number of MB")
        if not -float("inf") < self.priority < float("inf"):
            raise ValueError("priority must be a finite number; higher ones begin first")
        if self.label is not None and not isinstance(self.label, str):
            raise TypeError(f"label must be a str, not {self.label!r}")
        if not _is_retry_on(self.retry_on):
            raise TypeError(
                "retry_on must be an exception type, a tuple of them, or a function of an "
                f"exception, not {self.retry_on!r}"
            )
        checked_resources(self.required_resources)
        check_requires(self.requires)

    def changed(self, changes: Mapping[str, Any]) -> CallOptions:
        """These options, but for some.

        Raises:
            TypeError, ValueError: there is no such option, or it is out of range.
        """
        known = {field.name for field in fields(self)}
        for name in changes:
            if name not in known and name in PoolOptions.__dataclass_fields__:
                raise TypeError(f"{name!r} is not an option of a call: give it to the executor")
        check_names(changes, known)
        return replace(self, **changes)

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
            priority=self.priority,
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


def _dependencies(after: Any) -> tuple[Dependency, ...]:
    """What `after` means: a Dependency, or a future or some, all of which must succeed; or nothing.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(after, Dependency):
        return (after,)
    if after is None:
        return ()
    some = (after,) if isinstance(after, Future) else after
    if not isinstance(some, Iterable):
        raise TypeError(f"after must be futures of this executor, or a Dependency, not {after!r}")
    some = tuple(some)
    if some and all(isinstance(each, Dependency) for each in some):  # it was checked before
        return some
    return (Dependency(some),) if some else ()


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError for the first of the given options that there is not."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), 1)
            there = f"did you mean {nearest[0]!r}?" if nearest else f"there are {_listed(known)}"
            raise TypeError(f"there is no option {name!r}: {there}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def check_requires(requires: Any) -> None:
    """Raise TypeError or ValueError if these are not modules with their least versions."""
    if requires is None:
        return
    if not isinstance(requires, Mapping):
        raise TypeError(
            "requires must be a mapping from modules to their least versions, such as "
            f"{{'sklearn': '1.5'}}, not {requires!r}"
        )
    for module, least in requires.items():
        if not isinstance(module, str) or not all(map(str.isidentifier, module.split("."))):
            raise ValueError(
                f"requires has {module!r}, which is not the name of a module: write it as it is "
                "imported, such as 'sklearn'"
            )
        if not isinstance(least, str):
            raise TypeError(f"requires[{module!r}] must be a str, such as '1.5', not {least!r}")
        if least and not least[0].isdigit():
            raise ValueError(
                f"requires[{module!r}] must be the least version alone, such as '1.5', "
                f"not {least!r}"
            )


def _no_container(given: object) -> str:
    """The advice to those who gave neither a Container nor a Template."""
    said = f"container must be a Container or a Template, not {given!r}"
    if not isinstance(given, str) or not given:
        return said
    name, tag = image_and_tag(given)
    more = f", docker_image_tag={tag!r}" if tag else ""
    return f"{said}: Container(docker_image_name={name!r}{more})"


def _is_retry_on(wish: Any) -> bool:
    """Whether it is None, a type of exceptions, some of these, or a function."""
    if isinstance(wish, type):
        return issubclass(wish, BaseException)
    if isinstance(wish, tuple):
        return all(isinstance(kind, type) and _is_retry_on(kind) for kind in wish)
    return wish is None or callable(wish)


_ROUTINES = FunctionType, BuiltinFunctionType, type
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def check_function(fn: object) -> None:
    """Raise TypeError if it cannot be called, or is a generator function, whose result could not
    be sent back.
    """
    if not callable(fn):
        raise TypeError(
            f"{type(fn).__name__!r} object is not callable: give the function itself and then its "
            "arguments, as in submit(f, 1) and not submit(f(1))"
        )
    call: Any = fn
    while isinstance(call, partial | MethodType):
        call = call.func if isinstance(call, partial) else call.__func__
    if not isinstance(call, _ROUTINES):
        call = inspect.getattr_static(type(call), "__call__", None)
    # By its flags: what `inspect` does to find out costs a third of a submit.
    code = getattr(call, "__code__", None)
    if isinstance(code, CodeType) and code.co_flags & _GENERATORS:
        raise TypeError(
            f"{fn!r} is a generator function, and a generator cannot be sent back. "
            "Return a list of what it yields; or submit a call for each."
        )


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What was asked of a pool; see `ContainerPoolExecutor` for what it means.

    Raises:
        TypeError, ValueError: an option has the wrong type, or is out of range.
    """

    max_workers: int | None = None
    container: Container | Template | None = None
    platform: Any = None
    max_tasks_per_worker: int | None = None
    idle_timeout: float = 60.0
    initializer: Callable[..., object] | None = None
    initargs: Iterable[Any] = ()
    max_retries: int = 0
    retry_on: RetryOn = None
    memory_growth: float | None = None
    lease: float = 3600.0
    name: str | None = None
    requires: Mapping[str, str] | None = None
    session: str | None = None
    include: Collection[Include] = ()
    exclude: Collection[Include] = ()
    code: bool = True
    share_arrays: float | None = 1_000_000  # bytes; smaller arrays are part of each call
    keep_alive: float = 0.0
    max_container_hours: float | None = None
    worker_processes: int = 1

    def __post_init__(self) -> None:
        """Check the fields, and raise here what is wrong with them."""
        make_plain(self, ("max_workers", "max_tasks_per_worker"), whole)
        make_plain(self, ("worker_processes",), whole)
        if self.share_arrays is not None:
            make_plain(self, ("share_arrays",), number)
        make_plain(self, ("idle_timeout", "lease", "keep_alive"), number)
        make_plain(self, ("max_container_hours",), number)
        if not 0 <= self.keep_alive < float("inf"):
            raise ValueError("keep_alive must be a finite number of seconds, 0 or more")
        if self.keep_alive and not self.session:
            raise ValueError("keep_alive is for the next process of a session: give it a session=")
        hours = self.max_container_hours
        if hours is not None and not 0 < hours < float("inf"):
            raise ValueError("max_container_hours must be a finite number of hours, above 0")
        if not 0 <= self.idle_timeout < float("inf"):
            raise ValueError("idle_timeout must be a finite number of seconds, 0 or more")
        if not 0 < self.lease < float("inf"):
            raise ValueError("lease must be a finite number of seconds, above 0")
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError(f"initializer must be a callable, not {self.initializer!r}")
        if self.initializer is not None:
            check_function(self.initializer)
        if not isinstance(self.initargs, Iterable):
            raise TypeError(f"initargs must be an iterable, not {self.initargs!r}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        if self.container is not None and not isinstance(self.container, Container | Template):
            raise TypeError(_no_container(self.container))
        if self.session is not None:
            checked_name(self.session)
        for name in ("include", "exclude"):
            items = getattr(self, name)
            if isinstance(items, str) or not isinstance(items, Collection):
                raise TypeError(
                    f"{name} must be a list of modules, their names, or paths, not {items!r}"
                )
            for item in items:
                if not isinstance(item, ModuleType | str | os.PathLike):
                    raise TypeError(
                        f"{name} must contain modules, their names, or paths, not {item!r}"
                    )
        if not isinstance(self.code, bool):
            raise TypeError(f"code must be True or False, not {self.code!r}")
        if self.include and not self.code:
            raise ValueError("include says what to send, and code=False that nothing is")
        _ = self.calls  # checks the rest

    @classmethod
    def check(cls, options: Mapping[str, Any], also: Collection[str]) -> None:
        """See `ContainerPoolExecutor.check_options`."""
        known = {field.name for field in fields(cls)}
        check_names(options, {*known, *also})
        cls(**{name: value for name, value in options.items() if name in known})

    @property
    def runs_in(self) -> Container | Template:
        """What each worker runs in."""
        return self.container or Container()

    @property
    def title(self) -> str:
        """What the pool is called."""
        return self.name or f"civis_futures on {socket.gethostname()}"

    @property
    def shared_from(self) -> float:
        """Arrays of this many bytes or more are shared."""
        return float("inf") if self.share_arrays is None else self.share_arrays

    @property
    def calls(self) -> CallOptions:
        """The options of each call, unless it has others."""
        return CallOptions(
            self.max_retries,
            self.retry_on,
            memory_growth=self.memory_growth,
            requires=self.requires,
        )

    @property
    def _workers(self) -> int:
        if self.max_workers is not None:
            return self.max_workers
        # A platform on this machine says how many cores there are: as in a process pool.
        cores = os.cpu_count() if self.platform == "local" else None
        cores = getattr(self.platform, "cores", cores)
        # On another machine: the size of this one says nothing of it.
        return max(int(cores), 1) if isinstance(cores, int | float) else 10

    @property
    def policy(self) -> Policy:
        """What the scheduler goes by; times in seconds."""
        from .._scheduling.state import Policy

        return Policy(
            self._workers,
            self.max_tasks_per_worker,
            float(self.idle_timeout),
            float(self.lease),
            setup=bool(getattr(self.runs_in, "setup_cmd", True)),  # a template may do anything
            keep_alive=float(self.keep_alive),
            max_seconds=math.inf
            if self.max_container_hours is None
            else 3600.0 * self.max_container_hours,
            worker_processes=self.worker_processes,
            inboxes=1 if self.session else -(-self._workers // (READERS * self.worker_processes)),
        )
