"""Views of a pool: with options for each call, or with one function; and functions that know what
they need where they run.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Never,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from .._types import UNCHANGED, RetryOn, given
from .dependencies import Decorated, Depending, Requiring, check_owner, taken_apart
from .options import After, check_function, check_requires

if TYPE_CHECKING:
    from .._futures.future import ContainerFuture
    from .map import MapOptions, MapResult
    from .options import CallOptions
    from .submission import Intake

T = TypeVar("T")
P = ParamSpec("P")


class WithOptions:
    """A view of a `ContainerPoolExecutor`: the same pool, with options for each call.

    It is made by `ContainerPoolExecutor.options`.
    """

    def __init__(self, executor: object, intake: Intake, options: CallOptions) -> None:
        self._executor = executor  # kept: a forgotten executor shuts down
        self._intake = intake
        self._options = options
        check_owner(intake, options.after)

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ContainerFuture[T]: ...

    @overload
    def submit(
        self, fn: Callable[..., T], future: ContainerFuture[Any], /, *args: Any, **kwargs: Any
    ) -> ContainerFuture[T]: ...

    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> ContainerFuture[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ContainerFuture[Any]:
        """Like `ContainerPoolExecutor.submit`, with these options."""
        return self._intake.submit(self._options, fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: Literal[False] = False,
        **how: Unpack[MapOptions],
    ) -> MapResult[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: bool,
        **how: Unpack[MapOptions],
    ) -> MapResult[T | BaseException]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        logs: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
        seed: int | None = None,
    ) -> MapResult[Any]:
        """Like `ContainerPoolExecutor.map`, with these options."""
        return self._intake.map(
            self._options,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            progress=progress,
            logs=logs,
            ordered=ordered,
            return_exceptions=return_exceptions,
            seed=seed,
        )

    def options(
        self,
        *,
        max_retries: int = UNCHANGED,
        retry_on: RetryOn = UNCHANGED,
        timeout: float | None = UNCHANGED,
        queue_timeout: float | None = UNCHANGED,
        label: str | None = UNCHANGED,
        required_resources: Mapping[str, float] | None = UNCHANGED,
        memory_growth: float | None = UNCHANGED,
        max_memory: float = UNCHANGED,
        priority: float = UNCHANGED,
        after: After = UNCHANGED,
        requires: Mapping[str, str] | None = UNCHANGED,
        **unknown: Never,
    ) -> WithOptions:
        """The same view, with some options changed."""
        changes = given(locals())
        return WithOptions(self._executor, self._intake, self._options.changed(changes))

    def __repr__(self) -> str:
        """Its options."""
        return f"<{type(self).__name__} {self._options}>"


def require(*modules: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the function can run only where these modules can be imported.

    If the image lacks one, calls fail with `EnvironmentMismatchError` before they are unpickled
    there. In this process, nothing is checked. To require a version, or to use a function that
    you cannot decorate, use ``executor.options(requires={"numpy": "2.1"})``.

    Args:
        modules: names of modules, as they are imported.

    Raises:
        TypeError: no names were given, as in ``@require``, or one is not a str.
        ValueError: one cannot be the name of a module.
    """
    if not modules or not all(isinstance(name, str) for name in modules):
        raise TypeError('require takes names of modules: @require("numpy", "pandas")')
    check_requires(dict.fromkeys(modules, ""))

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        inner, known = taken_apart(function)
        return cast("Callable[P, T]", Requiring(inner, {**known, **dict.fromkeys(modules, "")}))

    return decorate


def depend(
    check: Callable[..., object], /, *args: Any, **kwargs: Any
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the function runs only in containers that `check` accepts.

    In the container, ``check(*args, **kwargs)`` is called before each call of the function. If it
    returns False or raises `UnmetDependency`, the function is not called, and the call goes to
    another container. Any other exception fails the call. In this process, nothing is checked.

    Raises:
        TypeError: `check` or the function cannot be called, or `check` is a coroutine function.
    """
    return lambda function: dependent(function, check, *args, **kwargs)


def dependent(
    function: Callable[P, T], check: Callable[..., object], /, *args: Any, **kwargs: Any
) -> Callable[P, T]:
    """What ``@depend(check, *args, **kwargs)`` would make of the function, which stays as it is."""
    check_function(taken_apart(function)[0])
    check_function(check)
    if inspect.iscoroutinefunction(check):
        raise TypeError(f"the check {check!r} is a coroutine function, which nobody would run")
    return cast("Callable[P, T]", Depending(function, check, args, kwargs))


def parallel(view: Any, function: Callable[..., Any] | None) -> Any:
    """See `ContainerPoolExecutor.parallel`; `view` is what has its `submit` and `map`."""
    if function is None:
        return lambda function: ParallelFunction(function, view)
    return ParallelFunction(function, view)


class ParallelFunction(Decorated, Generic[P, T]):
    """A function that has the `submit` and `map` of a pool. To call it runs the function as usual.

    When it is sent to a container as part of a call, the function alone is sent. It is made by
    `ContainerPoolExecutor.parallel`.
    """

    def __init__(self, function: Callable[P, T], view: Any) -> None:
        check_function(taken_apart(function)[0])
        self.__wrapped__ = function
        self._view = view
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it here and now."""
        result: T = self.__wrapped__(*args, **kwargs)
        return result

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> ContainerFuture[T]:
        """Like `ContainerPoolExecutor.submit`, of this function."""
        future: ContainerFuture[T] = self._view.submit(self.__wrapped__, *args, **kwargs)
        return future

    def map(self, *iterables: Iterable[Any], **how: Any) -> MapResult[T]:
        """Like `ContainerPoolExecutor.map`, of this function; takes the same options."""
        results: MapResult[T] = self._view.map(self.__wrapped__, *iterables, **how)
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        """The function is what arrives."""
        return operator.itemgetter(0), ((self.__wrapped__,),)

    def __repr__(self) -> str:
        """The function, and the options of its calls."""
        return f"<{type(self).__name__} {self.__wrapped__!r}>"
