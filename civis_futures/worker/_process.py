"""The parent's end of the child: to fork it, to give it calls, to hear from it, to see it die.

It knows processes and pipes, not what passes through them. A call may be given while the child is
at another one. For each call goes a permit through a pipe of its own, which the child takes out
before it begins the call. The parent can read that pipe as well: whoever takes a permit out decides
whether the call begins.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from . import _child
from ._frames import PERMIT, Frames, forked, high_pipe, new_mark, packed, term
from ._groups import own_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._pacing import WorkerPacing

#: Seconds between two looks at whether the child still lives. Its end usually closes the pipe,
#: which is seen at once; but a process that it left behind may hold the pipe open.
_LOOK = 0.25
#: A child that has several calls is let alone until it should have answered this many of them, if
#: that takes some milliseconds: to be woken for each answer of short calls takes more than they do.
_TOGETHER, _LEAST_REST, _LONGEST_REST = 4, 0.005, 0.05


class DiedError(Exception):
    """The child has ended without an answer.

    `code` is its exit code, or minus its signal; `memory` whether the kernel killed it for that;
    `unbegun` how many of the calls that it was given, the last ones, it had not begun.
    """

    def __init__(self, code: int, memory: bool, peak_mb: float, unbegun: int) -> None:
        super().__init__(code, memory, peak_mb, unbegun)
        self.code = code
        self.memory = memory
        self.peak_mb = peak_mb
        self.unbegun = unbegun

    def __str__(self) -> str:
        """What happened, for people."""
        if self.memory:
            return "killed by the kernel: the container ran out of memory"
        if self.code == _child.PIPE_LOST:
            return f"exit code {self.code}: it could not answer, its pipe was closed"
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = f"signal {-self.code}"
        perhaps = "; perhaps out of memory" if self.code == -signal.SIGKILL else ""
        return f"killed by {name}{perhaps}"


class Children:
    """What the children of one worker share: the kernel's one timer, its one count of those that it
    has killed for want of memory, and who was reaped when another one was looked at.
    """

    def __init__(self) -> None:
        self._due: dict[Process, float] = {}  # the monotonic time at which each is to be called
        self._pids: set[int] = set()
        self._ended: dict[int, tuple[int, float]] = {}
        self._oom_counters = _oom_counters()
        self._explained = 0  # of those that the kernel has killed, how many are known

    def call_in(self, process: Process, seconds: float | None) -> None:
        """Call `process.expire` after `seconds`, or not any more.

        By a signal to ourselves, as we may be in a request then that takes long. It breaks nothing
        off: Python goes on with what it was waiting for.
        """
        if seconds is not None:
            # The kernel's timers take no more.
            self._due[process] = time.monotonic() + min(seconds, 1e8)
        elif self._due.pop(process, None) is None:
            return
        signal.signal(signal.SIGALRM, self._ring)
        self._set_timer()

    def _set_timer(self) -> None:
        first = min(self._due.values(), default=None)  # at once: `_ring` may come at any moment
        left = 0.0 if first is None else max(first - time.monotonic(), 1e-6)
        signal.setitimer(signal.ITIMER_REAL, left)

    def _ring(self, *_: object) -> None:
        now = time.monotonic()
        for process, at in list(self._due.items()):
            if at <= now:
                self._due.pop(process, None)
                process.expire()
        self._set_timer()

    def born(self, pid: int) -> int:
        """There is another one; how many the kernel has killed before."""
        self._pids.add(pid)
        return self._kills()

    def reap(self, pid: int) -> tuple[int, float] | None:
        """The status of one that has ended, and its peak of memory; None while it runs."""
        # As process 1 of the container, we also inherit whatever a child leaves behind.
        target = -1 if os.getpid() == 1 else pid
        while pid not in self._ended:
            try:
                found, status, usage = os.wait4(target, os.WNOHANG)
            except ChildProcessError:  # reaped by a call of this that a TERM broke off
                return self._forget(pid)
            if found == 0:
                return None
            if found in self._pids:
                self._ended[found] = status, _child.peak_mb(usage)
        return self._forget(pid)

    def _forget(self, pid: int) -> tuple[int, float]:
        self._pids.discard(pid)
        return self._ended.pop(pid, (0, 0.0))

    def was_out_of_memory(self, before: int) -> bool:
        """Whether the kernel has killed one more than it had `before`, and than is known of others
        that were killed.
        """
        explained = max(self._explained, before)
        if self._kills() <= explained:
            return False
        self._explained = explained + 1
        return True

    def _kills(self) -> int:
        return _oom_kills(self._oom_counters)


class Process:
    """A child. `folder` is for bytes too large for a pipe; `initializer` what it runs first; `code`
    the digests of zips with the user's modules that it begins with.

    `expired` says whether it was ended because its time was over; see `limit`.
    """

    def __init__(
        self,
        folder: str,
        initializer: _child.Payload | None,
        code: Iterable[str],
        pacing: WorkerPacing,
        children: Children,
    ) -> None:
        self._folder = folder
        self._children = children
        self._pacing = pacing
        self._code = set(code)
        self._initializer = initializer
        self._mark = new_mark()
        self._frames = Frames(self._mark)
        self._calls = self._answers = -1
        self._permits = self._permits_left = -1  # both ends
        self._sent = self._permitted = 0  # frames
        self._spoke = 0.0  # when it was last heard, or given a call when it had none
        self._pace = 0.0  # seconds between two of its answers, rather of the last ones
        self._heard_end = False
        self._status: int | None = 0  # None while it runs
        self._peak_mb = 0.0
        self._kills = 0
        self.expired = False
        self.pid = 0

    def start(self, in_child: Callable[[], None]) -> None:
        """Fork. `in_child` is called in the child, to close what is the parent's.

        A fork and not a new interpreter: it costs a few milliseconds instead of fifty, and it is
        safe, because the parent has no threads.
        """
        calls_out, self._calls = high_pipe()
        self._answers, answers_in = high_pipe()
        self._permits_left, self._permits = high_pipe()
        for fd in (self._calls, self._permits_left):  # of the latter no reader may wait in vain
            os.set_blocking(fd, False)
        self.pid = forked()
        if self.pid == 0:
            for fd in (self._calls, self._answers, self._permits):
                os.close(fd)
            in_child()
            pipes = _child.Pipes(calls_out, self._permits_left, answers_in, self._mark)
            _child.live(pipes, self._folder, self._initializer)
        self._status = None
        self._kills = self._children.born(self.pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(calls_out)
        os.close(answers_in)

    def send(self, header: dict[str, Any], body: bytes) -> None:
        """Give it a call, as it has none. If it takes none any more, `receive` will say why.

        (What it said itself before it ended is still to be read.)
        """
        view = memoryview(packed(self._mark, header, body))
        self._sent += 1
        self._spoke = time.monotonic()
        self.permit()  # first: what is in the pipe for which there is none is read away then
        while view:
            try:
                view = view[os.write(self._calls, view) :]
            except BlockingIOError:
                _ready([self._calls], select.POLLOUT, _LOOK)
                if not self.alive():
                    return
            except BrokenPipeError:
                return

    def send_ahead(self, header: dict[str, Any], body: bytes) -> bool:
        """Give it a call while it is at another one, which it may begin after `permit`; False if
        there is no room for it.
        """
        frame = packed(self._mark, header, body)
        if len(frame) > select.PIPE_BUF:  # up to that, a pipe takes all of it or nothing
            return False
        try:
            os.write(self._calls, frame)
        except (BlockingIOError, BrokenPipeError):
            return False
        self._sent += 1
        return True

    def permit(self) -> None:
        """Let it begin what it was sent; once for many calls, as each time may wake it."""
        new = range(self._permitted + 1, self._sent + 1)
        self._permitted = self._sent
        if new:
            os.write(self._permits, b"".join(number.to_bytes(PERMIT, "big") for number in new))

    def take_back(self, most: int) -> int:
        """Let it not begin what it has not begun, of the last `most` calls; how many these are."""
        permits = self._withdrawn()
        back = permits[max(len(permits) - most, 0) :]
        for permit in permits[: len(permits) - len(back)]:
            os.write(self._permits, permit)
        return len(back)

    def _withdrawn(self) -> list[bytes]:
        """The permits that it has not taken out, the oldest first.

        All are read at once: between two reads it could take one out, and begin that call before
        others.
        """
        permits = b""
        if self._permits_left >= 0:
            with contextlib.suppress(BlockingIOError):
                permits = os.read(self._permits_left, select.PIPE_BUF)
        return [permits[at : at + PERMIT] for at in range(0, len(permits), PERMIT)]

    def takes(self, code: set[str]) -> bool:
        """Whether it may run a call with these modules: those that it has, and perhaps more.

        (A call has all that calls before it had needed, unless one was changed.)
        """
        if self._code <= code:
            self._code = set(code)
        return code <= self._code

    @property
    def heard_by(self) -> int:
        """The pipe by which it says something; -1 if that is closed."""
        return -1 if self._heard_end else self._answers

    def limit(self, seconds: float | None) -> None:
        """End it, unless it says something within this many seconds; None: there is no limit."""
        self._children.call_in(self, seconds)

    def expire(self) -> None:
        """Its time is over."""
        if self.expired:
            self._kill_all()
        elif self._answers < 0 or not self.alive():
            return
        elif _ready([self._answers], select.POLLIN, 0) & select.POLLIN:  # its answer, most likely
            self._children.call_in(self, _LOOK)
        else:
            self.expired = True
            self._signal(signal.SIGTERM)
            self._children.call_in(self, self._pacing.child_term)

    def receive(self, timeout: float | None, ahead: int = 0) -> tuple[dict[str, Any], bytes] | None:
        """The next frame, or None after `timeout` seconds. DiedError if there will be none.

        So many calls are `ahead` of it: then it may come a little later, with others.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = self._pace * min(ahead // 2, _TOGETHER)
        if rest >= _LEAST_REST and self._answers >= 0 and not self._heard_end:
            rest = min(rest, _LONGEST_REST if timeout is None else min(timeout, _LONGEST_REST))
            with term(signal.SIG_UNBLOCK):
                _ready([self._answers], 0, rest)  # what it says does not wake us, but its end does
        while True:
            frame = self.next_frame()
            if frame is not None or self._answers < 0:  # closed: it is being ended
                return frame
            # Asked before the read: what it wrote before it died is then in the pipe.
            alive = self.alive()
            left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
            if not self._read(max(0.0, left) if alive else 0.0):
                if not alive:
                    raise self._death()
                if left <= 0:
                    return None

    def alive(self) -> bool:
        """Whether it still runs."""
        if self._status is None and (ended := self._children.reap(self.pid)) is not None:
            self._status, self._peak_mb = ended
        return self._status is None

    def let_go(self) -> None:
        """In a fork that is another child: its pipes are none of that one's business."""
        for fd in self._pipes:
            if fd >= 0:
                os.close(fd)

    def end(self) -> None:
        """Let it end by itself: it sees that no more calls come. Then less kindly."""
        self._close()
        if not self._gone(self._pacing.child_end):
            self.stop()

    def stop(self) -> None:
        """End it now: a TERM, and soon a KILL; and a KILL for all that it has started."""
        self.terminate()
        self._gone(self._pacing.child_term)
        self._kill_all()
        self._gone(None)

    def terminate(self) -> None:
        """Pass a TERM on, once. Its pipes are closed, so that a child which lives on ends soon."""
        self._close()
        if self.alive():
            self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for its end, as long as it takes: how long is the platform's decision."""
        self._gone(None)

    def next_frame(self) -> tuple[dict[str, Any], bytes] | None:
        """The next of those that have been read already. DiedError as of `receive`."""
        try:
            return self._frames.next()
        except ValueError:  # user code wrote into the middle of it
            self._kill_all()
            self._gone(None)
            raise self._death() from None

    def _read(self, timeout: float) -> bool:
        """Whether the pipe brought anything within `timeout` seconds."""
        with term(signal.SIG_UNBLOCK):
            if self._heard_end:  # yet the child may run on: user code has closed the other end
                self._gone(timeout)
                return False
            if not _ready([self._answers], select.POLLIN, timeout):
                return False
        data = os.read(self._answers, 1 << 16)
        self._heard_end = not data
        self._note_pace(data.count(self._mark))
        self._frames.add(data)
        return bool(data)

    def _note_pace(self, answers: int) -> None:
        if answers:
            before, self._spoke = self._spoke, time.monotonic()
            kept = 0.8**answers
            self._pace = kept * self._pace + (1 - kept) * (self._spoke - before) / answers

    def _death(self) -> DiedError:
        status = self._status or 0
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        memory = code == -signal.SIGKILL and self._children.was_out_of_memory(self._kills)
        unbegun = len(self._withdrawn())
        self._kill_all()
        self._close()
        return DiedError(code, memory, self._peak_mb, unbegun)

    def _gone(self, patience: float | None) -> bool:
        deadline = None if patience is None else time.monotonic() + patience
        pause = 0.001
        while self.alive():
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return True

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _kill_all(self) -> None:
        """Kill it and what it has started: no part of its call goes on without it."""
        if self._status is None:  # user code may have put it into another group
            self._signal(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none is left
            os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        self.limit(None)
        self._withdrawn()
        fds, self._calls, self._answers = self._pipes, -1, -1
        self._permits = self._permits_left = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    @property
    def _pipes(self) -> tuple[int, ...]:
        return self._calls, self._answers, self._permits, self._permits_left


def wait_for_any(processes: Iterable[Process], timeout: float | None) -> None:
    """Wait until one of these has said something, or may have ended; `timeout` seconds at most."""
    fds = [fd for fd in (process.heard_by for process in processes) if fd >= 0]
    _ready(fds, select.POLLIN, _LOOK if timeout is None else min(timeout, _LOOK))


def _ready(fds: Iterable[int], event: int, timeout: float) -> int:
    """What has happened there within `timeout` seconds: `event`, or that the other end is gone."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, event)
    return sum(happened for _, happened in poll.poll(timeout * 1000))


def _oom_counters(root: str = "/") -> list[str]:
    """The files in which the kernel counts what it kills in this process's own groups."""
    second, first = own_groups("memory", root)
    return [os.path.join(second, "memory.events"), os.path.join(first, "memory.oom_control")]


def _oom_kills(paths: Iterable[str]) -> int:
    """How many processes of these groups the kernel has killed for want of memory."""
    count = 0
    for path in paths:
        try:
            with open(path) as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                count += int(value)
    return count
