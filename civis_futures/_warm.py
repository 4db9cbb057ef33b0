"""Executors that outlive their use: the next user with the same options gets one that is warm.

One has one user at a time, so its containers need not be shared out, nor need it be known whose
calls are whose: two who ask at the same time get two. What is kept, and of what kind it is, is
here; when its containers end is the executor's own affair, by its `idle_timeout`.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ._api.credentials import credentials
from ._executor.executor import ContainerPoolExecutor
from ._executor.options import PoolOptions
from ._files.contents import content_store

if TYPE_CHECKING:
    from ._data.pickling import Payload


@dataclass(frozen=True, slots=True, eq=False)
class PoolKind:
    """What makes two executors alike: all options but the size, on the same platform.

    The initializer counts as what is sent of it, which may change while the function stays the
    same object.
    """

    options: PoolOptions
    whose: tuple[str, str] = field(repr=False)  # the platform's URL and the key
    initializer: Payload = field(repr=False)
    process: int = field(default_factory=os.getpid)

    @classmethod
    def of(cls, options: PoolOptions) -> PoolKind:
        """The kind of executor that these ask for.

        Raises:
            CredentialsError: there is no key, and no platform either.
            CallPicklingError: the initializer cannot be pickled.
        """
        from ._executor.opening import initializer_call  # slow to import

        local = options.platform == "local"
        whose = ("local", "") if local else credentials(options.platform)
        call = initializer_call(options, content_store(*whose))
        plain = replace(options, max_workers=None, platform=None, initializer=None, initargs=())
        return cls(plain, whose, call)

    def fits(self, other: PoolKind) -> bool:
        """Whether an executor of one kind is as good as one of the other."""
        try:
            return (self.process, self.whose, self.initializer, self.options) == (
                other.process, other.whose, other.initializer, other.options,
            )  # fmt: skip
        except Exception:  # options that cannot be compared, as a function with an odd __eq__
            return False


#: Executors that are not in use, the last used one last; each with its kind. Written in single
#: operations: a signal's handler may come at any line.
_kept: deque[tuple[PoolKind, ContainerPoolExecutor]] = deque()
#: How often all were ended: what was lent before is ended when it comes back.
_ends = [0]


class WarmPool:
    """A `ContainerPoolExecutor` that is kept after use, for the next use with the same options.

    >>> from civis_futures import WarmPool
    >>> with WarmPool(2, platform="local") as executor:
    ...     print(executor.submit(pow, 2, 5).result())
    32
    >>> with WarmPool(2, platform="local") as executor:  # in the same containers
    ...     print(executor.submit(pow, 3, 2).result())
    9
    >>> WarmPool.end_all()

    It is kept in this process, and has one user at a time: two threads that need one at the same
    time get two. When it is given back, calls that are not done are cancelled. Its containers end
    when they have had no work for its `idle_timeout`, when an executor with other options is asked
    for, with `end_all`, and when the interpreter exits. An executor that is broken is not kept,
    and one that was made before a fork is not used in the fork.

    Args:
        max_workers: as for `ContainerPoolExecutor`. An executor of another size is resized.
        **options: those of `ContainerPoolExecutor`, without `session`.

    Raises:
        CredentialsError, CallPicklingError, ValueError, TypeError: as for `ContainerPoolExecutor`.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        PoolOptions.check(options, ())
        if "initargs" in options:
            options["initargs"] = tuple(options["initargs"])  # they are read twice
        asked = PoolOptions(max_workers, **options)
        if asked.session is not None:
            raise ValueError("a session is for one executor: it has its calls in their order")
        self._ends, self._over = _ends[0], False
        self._kind = PoolKind.of(asked)
        executor = _take(self._kind)
        if executor is None:
            executor = ContainerPoolExecutor(max_workers, **options)
        else:
            executor.scale(asked.policy.max_workers)
            executor.reset_batch_size()
        self.executor: ContainerPoolExecutor = executor

    def give_back(self) -> None:
        """Give the executor back, after waiting until its containers run none of your calls.

        It may be called twice.
        """
        executor, over = self.executor, self._over
        self._over = True
        if over:
            return
        executor.cancel_all(wait=True)
        if self._ends == _ends[0] and _is_usable(executor):
            _kept.append((self._kind, executor))
        else:
            executor.shutdown()

    @classmethod
    def end_all(cls, wait: bool = True) -> None:
        """End all executors that are kept. Those in use end when they are given back.

        Args:
            wait: return only when all their containers have ended.
        """
        _ends[0] += 1
        ending = []
        while (one := _pop()) is not None:
            one[1].shutdown(wait=False)
            ending.append(one[1])
        for executor in ending if wait else ():
            executor.shutdown()

    def __enter__(self) -> ContainerPoolExecutor:
        """The executor."""
        return self.executor

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.give_back()


def _pop() -> tuple[PoolKind, ContainerPoolExecutor] | None:
    """The one that was given back last, if this process has made it."""
    while _kept:
        try:
            one = _kept.pop()
        except IndexError:  # another thread was quicker
            break
        if one[0].process == os.getpid():
            return one
    return None


def _take(kind: PoolKind) -> ContainerPoolExecutor | None:
    """One of this kind; those of other kinds that come before end, so that there are never more
    containers than were asked for.
    """
    while (one := _pop()) is not None:
        if _is_usable(one[1]) and kind.fits(one[0]):
            return one[1]
        one[1].shutdown()
    return None


def _is_usable(executor: ContainerPoolExecutor) -> bool:
    return executor.broken is None and not executor._intake.closed
