"""What calls need: results of others, and modules.

What stands in a call for the results of others, and what the scheduler is told; and which of them
to submit once more.

What the image must have for a call is checked in the container before the call is unpickled; and
whether the container will do, before each time that its function is called. Both checks travel with
the call and are pickled by value, as a function within a function: nothing of ours is installed
there. The first must be the first thing that is unpickled, since what comes later may need those
modules.

Knows futures and the calls that were sent, and does not submit any.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import update_wrapper
from typing import Any

from .._exceptions import UnmetDependency
from .._files.contents import SentCall, Value
from .._futures.future import ContainerFuture, value_in
from .._futures.waiting import Dependency

#: Futures of a pool, and those that have taken their places, with what stands for their results.
Replaced = Mapping[ContainerFuture[Any], tuple[ContainerFuture[Any], Value]]


def upstream(owner: object, future: Future[Any]) -> Value | None:
    """What stands for the result of a future in a call; None if it is here already.

    Raises:
        TypeError: it is not a future of this owner.
    """
    if not isinstance(future, ContainerFuture) or future._pool is not owner:
        raise TypeError(f"{future!r} is not of this executor: pass its result")
    sent = sent_of(future)
    if sent is None:
        return Value()
    value: Value = value_in(future, Value(sent.modules))
    # The pool notes what has come before it looks for this value: so one of the two finds it. It is
    # forgotten only when the future has its result.
    came = sent.came
    if came is not None:
        value.fill(came)
    elif future.done() and not failed(future):
        return None
    return value


def sent_of(future: ContainerFuture[Any]) -> SentCall | None:
    """The call of a future of ours, if it was sent."""
    sent = future._sent
    assert sent is None or isinstance(sent, SentCall), "no pool but ours has these futures"
    return sent


def check_owner(owner: object, after: Sequence[Dependency]) -> None:
    """Raise ValueError if one of the futures is not of this owner."""
    for future in itertools.chain.from_iterable(need.futures for need in after):
        if future._pool is not owner:
            raise ValueError(f"after has a future of another executor: {future!r}")


def needs_of(futures: Sequence[Any], after: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
    """What a call needs that has the results of these futures in it."""
    return (Dependency(futures), *after) if futures else after


def failed_before(future: ContainerFuture[Any]) -> list[ContainerFuture[Any]]:
    """What to submit again for the sake of this one, in this order, itself included: those that
    have failed and that it needs, and what these need.

    Raises:
        RuntimeError: one of them was never sent.
    """
    order: list[ContainerFuture[Any]] = []
    seen, ahead = {future}, [(future, False)]
    while ahead:
        each, complete = ahead.pop()
        if complete:
            order.append(each)
            continue
        sent = sent_of(each)
        if sent is None or not sent.kept:
            raise RuntimeError(f"the call was never sent, so it cannot be sent again: {each!r}")
        ahead.append((each, True))
        more = [other for other in _failed(sent) if other not in seen]
        seen.update(more)
        ahead += [(other, False) for other in more]
    return order


def _failed(sent: SentCall) -> Iterator[ContainerFuture[Any]]:
    for need in sent.needs:
        yield from filter(failed, need.futures if need.success else ())


def failed(future: Future[Any]) -> bool:
    """Whether it is done, and has no result."""
    return future.done() and (future.cancelled() or future.exception() is not None)


def replaced(sent: SentCall, again: Replaced) -> tuple[tuple[Any, ...], tuple[Dependency, ...]]:
    """The buffers and the needs of a call, with other futures in place of some."""
    values = {id(value_in(old)): new for old, (_, new) in again.items()}
    buffers = tuple(values.get(id(each), each) for each in sent.buffers)
    needs = tuple(
        Dependency(
            [again[future][0] if future in again else future for future in need.futures],
            all=need.all,
            success=need.success,
            failure=need.failure,
        )
        for need in sent.needs
    )
    return buffers, needs


# --- modules ---------------------------------------------------------------------------------


class Decorated:
    """A function that was decorated here."""

    __wrapped__: Callable[..., Any]


def taken_apart(function: Callable[..., Any]) -> tuple[Callable[..., Any], Mapping[str, str]]:
    """A function as it was before it was decorated here, and the modules that it needs."""
    if isinstance(function, Decorated) and not isinstance(function, Requiring):
        function = function.__wrapped__
    if isinstance(function, Requiring):
        return function.__wrapped__, function.modules
    return function, {}


def with_requirements(function: Callable[..., Any], modules: Mapping[str, str]) -> Any:
    """What is pickled for a function that needs these modules."""
    return Requiring(function, modules) if modules else function


class Requiring(Decorated):
    """A function that is unpickled, as itself, only where the modules are.

    `modules` has the least version of each, e.g. ``{"numpy": "2.1"}``; "" is any.
    """

    def __init__(self, function: Callable[..., Any], modules: Mapping[str, str]) -> None:
        update_wrapper(self, function)
        self.__wrapped__ = function
        self.modules = dict(modules)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Here, nothing is checked."""
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """The check comes first: of these two it is what is unpickled first."""
        return _Check(self.modules), (self.__wrapped__,)


class _Check:
    """The check, unpickled by running it; what is left of it there gives the function."""

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = modules

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Pickle wants it to be callable."""
        return function

    def __reduce__(self) -> tuple[Any, ...]:
        return _check(), (self._modules,)


def _check() -> Callable[[dict[str, str]], Callable[[Any], Any]]:
    def check(modules: dict[str, str]) -> Callable[[Any], Any]:
        import importlib
        import re

        def numbers(version: str) -> list[int]:
            return [int(part) for part in re.findall(r"\d+", version)]

        for name, least in modules.items():
            found = getattr(importlib.import_module(name), "__version__", "")
            if found and numbers(found) < numbers(least):
                error = ModuleNotFoundError(f"the image has {name} {found}")
                # Not as its name: who renders it may look for such a module, or propose others.
                error.civis_futures_requirement = f"{name}>={least}"  # type: ignore[attr-defined]
                raise error
        return lambda function: function

    return check


# --- containers that will do ----------------------------------------------------------------


class Depending:
    """A function that is called, in a container, only if `check` does not return False there."""

    def __init__(
        self, function: Callable[..., Any], check: Callable[..., object], args: Any, kwargs: Any
    ) -> None:
        update_wrapper(self, function)
        self.__wrapped__ = function
        self._check = check, args, kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Here, nothing is checked."""
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """The function first: it may say which modules it needs."""
        return _checking(), (self.__wrapped__, *self._check, UnmetDependency)


def _checking() -> Callable[..., Any]:
    def checked(
        function: Any, check: Any, args: Any, kwargs: Any, unmet: type[Exception]
    ) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            fits = check(*args, **kwargs)
            if type(fits).__name__ in ("bool", "bool_") and not fits:  # of NumPy, too
                name = getattr(check, "__qualname__", type(check).__qualname__)
                raise unmet(f"{name} returned False")
            return function(*given, **more)

        return call

    return checked
