"""What a call may change in its process that would harm the calls after it: put back.

Not all that it changes: a process is not cleaned between calls, as it is not in the standard
library's pools, and what libraries do to it when they are imported shall stay, as must what the
initializer has done. Part of the child.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import os
import resource
import signal
import sys
from operator import is_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_all, _map = all, map  # which a call may have replaced
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Those whose handlers change what later calls are told: of their subprocesses, and of their pipes.
#: (Other handlers stay: a library may set them when it is imported, and nothing sends the signals.)
_SIGNALS = (signal.SIGCHLD, signal.SIGPIPE)
#: Where the interpreter looks for modules.
_SEARCHED = ("path", "path_hooks", "meta_path")


class Surroundings:
    """The state of the process when this is made."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._folder = _folder()
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._environment = dict(os.environ)
        self._names = set(_names())
        self._limits = {number: resource.getrlimit(number) for number in _LIMITS}
        self._recursion = sys.getrecursionlimit()
        self._collects = gc.isenabled()
        self._trace = sys.gettrace()
        self._profile = sys.getprofile()
        self._filters = _strict_filters()
        self._searched = {name: list(getattr(sys, name)) for name in _SEARCHED}
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._timers = [timer for timer in _TIMERS if signal.getitimer(timer)[0] == 0]
        self._user = os.geteuid(), os.getegid()

    def restore(self) -> bool:
        """Put it back; whether the process can do another call. Whatever it meets, it goes on."""
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        now, before = vars(builtins), self._builtins
        if len(now) < len(before) or not _all(_map(is_, now.values(), before.values())):
            now.update(before)
        try:
            self._restore()
            return sys.modules.get(__name__) is _ourselves
        except Exception:  # a limit that cannot be raised again, or what was left of a module
            return False

    def _restore(self) -> None:
        for timer in self._timers:
            signal.setitimer(timer, 0)
        if "faulthandler" in sys.modules:
            sys.modules["faulthandler"].cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        if (os.geteuid(), os.getegid()) != self._user:
            os.seteuid(self._user[0])  # first, as only a superuser may change the group
            os.setegid(self._user[1])
        if [*_map(resource.getrlimit, self._limits)] != [*self._limits.values()]:
            for number, limits in self._limits.items():
                resource.setrlimit(number, limits)
        if self._folder is not None and _folder() is None:
            os.chdir(self._folder)
        mask = os.umask(self._umask)
        if not mask & 0o700:  # with it, the user could not read what she has written
            os.umask(mask)
        if not self._names <= _names():
            for name in self._environment.keys() - os.environ.keys():
                os.environ[name] = self._environment[name]
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
        if self._collects:
            gc.enable()
        for name, before in self._searched.items():
            now = getattr(sys, name)
            if now != before and (missing := [each for each in before if each not in now]):
                now += missing
                sys.path_importer_cache.clear()  # which has noted that nobody reads these
        filters: Any = getattr(sys.modules.get("warnings"), "filters", [])
        for strict in _strict_filters():
            if strict not in self._filters:
                filters.remove(strict)


_ourselves = sys.modules[__name__]


def _folder() -> str | None:
    with contextlib.suppress(OSError):  # it was removed
        return os.getcwd()
    return None


def _names() -> Any:
    """The names of the environment's variables, as a view of a dict: to ask `os.environ` itself for
    each of them takes longer than all the rest here.
    """
    return getattr(os.environ, "_data", os.environ).keys()


def _strict_filters() -> list[Any]:
    """The filters that make errors of warnings: of calls after the one that wanted it, too."""
    filters = getattr(sys.modules.get("warnings"), "filters", [])
    return [each for each in filters if each[0] == "error"]
