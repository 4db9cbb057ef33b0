"""Functions that know something of where they run: what they need there, or on which pool.

What the image must have for a call is checked in the container before the call is unpickled. The
check travels with the call and is pickled by value, as a function within a function: nothing of
ours is installed there. It must be the first thing that is unpickled, since what comes later may
need those modules.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from .._futures.future import ContainerFuture
    from .map import MapResult

T = TypeVar("T")
P = ParamSpec("P")


def require(*modules: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the function runs only where these modules can be imported.

    What the image lacks is an `EnvironmentMismatchError`, before the call is unpickled there. Here
    the function is as it was. For least versions, and for functions of others, there is
    ``executor.options(requires={"numpy": "2.1"})``.

    Args:
        modules: their names, as they are imported.

    Raises:
        TypeError: one is no name; the decorator was used without any, as ``@require``.
    """
    if not modules or not all(isinstance(name, str) for name in modules):
        raise TypeError('require takes names of modules: @require("numpy", "pandas")')

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        inner, known = taken_apart(function)
        return cast("Callable[P, T]", Requiring(inner, {**known, **dict.fromkeys(modules, "")}))

    return decorate


def taken_apart(function: Callable[..., Any]) -> tuple[Callable[..., Any], Mapping[str, str]]:
    """A function as it was before it was decorated here, and the modules that it needs."""
    if isinstance(function, ParallelFunction):
        function = function.__wrapped__
    if isinstance(function, Requiring):
        return function.__wrapped__, function.modules
    return function, {}


def parallel(view: Any, function: Callable[..., Any] | None) -> Any:
    """See `ContainerPoolExecutor.parallel`; `view` is what has its `submit` and `map`."""
    if function is None:
        return lambda function: ParallelFunction(function, view)
    return ParallelFunction(function, view)


class ParallelFunction(Generic[P, T]):
    """A function with the pool that runs it: `submit` and `map` are those of the pool, and a plain
    call is a call here.

    Wherever it is part of a call it is the function alone. Made by
    `ContainerPoolExecutor.parallel`.
    """

    def __init__(self, function: Callable[P, T], view: Any) -> None:
        self.__wrapped__ = function
        self._view = view
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it here and now."""
        return self.__wrapped__(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> ContainerFuture[T]:
        """As `ContainerPoolExecutor.submit`."""
        future: ContainerFuture[T] = self._view.submit(self.__wrapped__, *args, **kwargs)
        return future

    def map(self, *iterables: Iterable[Any], **how: Any) -> MapResult[T]:
        """As `ContainerPoolExecutor.map`, with its options."""
        results: MapResult[T] = self._view.map(self.__wrapped__, *iterables, **how)
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        """The function is what arrives."""
        return operator.itemgetter(0), ((self.__wrapped__,),)

    def __repr__(self) -> str:
        """The function, and the options of its calls."""
        return f"<{type(self).__name__} {self.__wrapped__!r}>"


def with_requirements(function: Callable[..., Any], modules: Mapping[str, str]) -> Any:
    """What is pickled for a function that needs these modules."""
    return Requiring(function, modules) if modules else function


class Requiring:
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
