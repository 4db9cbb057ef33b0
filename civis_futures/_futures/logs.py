"""What a task printed: its part of a run's log, as it is now or as it grows.

A reused worker has one log for all of its calls. Where each begins it prints a line, on both of its
streams, and there the log is cut: each stream by its own, since which of them comes first is not
certain. If it runs several calls at once, it also prints a line wherever one of them goes on. Lines
come in pages from a `Source`, never more of them in memory than are asked for. This module must not
know clients, futures or threads.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

from .._pacing import Pacing, default_pacing
from .._types import LogLine, LogPage
from .._wire import BEGIN_LINE, GO_ON_LINE

#: How many lines are given at the most, and how many characters these may have together.
MOST_LINES, MOST_CHARACTERS = 10_000, 20_000_000
#: How many lines the first page has; the next ones are chosen to be about so large.
FIRST_PAGE, PAGE_CHARACTERS, SMALLEST_PAGE = 1_000, 4_000_000, 250
#: A late line may have an id that is lower, by up to this much, than one that was read before it.
OVERLAP = 100
#: The pause between two reads of a log that grows: at most this many seconds, and the time in
#: which the budget allows this many requests.
LONGEST_PAUSE, REQUESTS = 5.0, 4

_LEVEL = re.compile(
    r"(?:\[?\d{2,4}[-/:.][\d\-/:.,TZ ]{4,30}\]?[\s|-]*)?"  # when
    r"(?:[\w.]+ - )?"  # where
    r"\[?(DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)\]?(?:[\s:|-]|$)"
)
_LEVELS = {"WARNING": "warn", "CRITICAL": "fatal"}


class LogPages(Protocol):
    """Where logs are read."""

    @property
    def pace(self) -> float:
        """Seconds per request that the budget sustains."""

    def page(self, job_id: int, run_id: int, last_id: int | None, limit: int) -> LogPage:
        """The newest lines; or the first after `last_id`."""

    def close(self) -> None:
        """No more is read."""


@dataclass(frozen=True, slots=True)
class LogAccess:
    """The logs of a pool: how to get at them, and whether its workers answer several calls."""

    open: Callable[[], LogPages]
    reused: bool
    pacing: Pacing = field(default_factory=default_pacing)


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """Whose lines they are: `number` is None for a whole run.

    `where` is its job and run, once there are; `wait` returns when it is done, or after the
    given number of seconds.
    """

    number: int | None
    where: Callable[[], tuple[int, int] | None]
    done: Callable[[], bool]
    wait: Callable[[float], object]


# --- cutting -------------------------------------------------------------------------------------


class LastLines:
    """The last lines of many."""

    def __init__(self, most: int) -> None:
        self._lines: deque[LogLine] = deque()
        self.most = most
        self._size = 0

    def add(self, line: LogLine) -> None:
        """Take one in, and let the oldest go if it is one too many."""
        self._lines.append(line)
        self._size += len(line.message)
        while len(self._lines) > self.most or self._size > MOST_CHARACTERS:
            self._size -= len(self._lines.popleft().message)

    def drop(self, by_stderr: bool) -> None:
        """Forget those of one stream."""
        for line in self.take():
            if is_of_stderr(line) != by_stderr:
                self.add(line)

    def take(self) -> list[LogLine]:
        """All of them; they are here no more."""
        lines = list(self._lines)
        self._lines.clear()
        self._size = 0
        return lines


@dataclass(slots=True)
class _Stream:
    """What is known of one of the two streams."""

    marked: bool = False  # whether any call is known to have begun
    begun: bool = False  # this one is
    blank: LogLine | None = None  # its last line, if that is empty: it may belong to the next mark
    process: str | None = None  # of the worker, in which it has; None: there is only one
    away: bool = False  # what is printed just now is another one's
    over: bool = False  # another one has begun after it


class Cutter:
    """Takes a log line by line, from its beginning or not, and keeps what is of one call.

    Lines before the first mark are its own if there is never any mark.
    """

    def __init__(self, number: int | None, most: int, *, reused: bool = True) -> None:
        self._number = number
        self._kept = LastLines(most)
        self._streams = {False: _Stream(), True: _Stream()}
        self.reused = reused and number is not None

    @property
    def _marked(self) -> list[_Stream]:
        return [stream for stream in self._streams.values() if stream.marked]

    @property
    def begun(self) -> bool:
        """Whether it is known where the call begins."""
        return bool(self._marked) and all(stream.begun for stream in self._marked)

    @property
    def over(self) -> bool:
        """Whether another call is known to have begun after it."""
        return bool(self._marked) and all(stream.over for stream in self._marked)

    @property
    def sure(self) -> bool:
        """Whether what is kept is the call's, whatever follows."""
        return self.begun or not self.reused

    def feed(self, lines: Iterable[LogLine]) -> None:
        """Take in the next lines."""
        for line in lines:
            by_stderr = is_of_stderr(line)
            stream = self._streams[by_stderr]
            mark = BEGIN_LINE.search(line.message.rstrip()) if self.reused else None
            if self.reused and (goes_on := GO_ON_LINE.match(line.message.rstrip())):
                self._goes_on(stream, by_stderr, goes_on[1])
                continue
            # Where a line went before it that had no end, only the call itself believes it: it
            # may be what a task says.
            if mark and mark.start() and (stream.begun or int(mark[1]) != self._number):
                mark = None
            if mark is None:
                if not (stream.over or stream.away) and (stream.begun or not stream.marked):
                    self._let_go(stream)
                    if line.message or not self.reused:
                        self._kept.add(line)
                    else:
                        stream.blank = line
                continue
            stream.blank = None  # a mark begins with a newline, whatever was written before it
            if int(mark[1]) == self._number:
                self._kept.drop(by_stderr)  # an earlier attempt of it, if anything
                stream.marked = stream.begun = True
                stream.away = stream.over = False
                stream.process = mark[3]
            else:
                self._goes_on(stream, by_stderr, None)
                stream.over = stream.over or (stream.begun and stream.process == mark[3])

    def _goes_on(self, stream: _Stream, by_stderr: bool, task: str | None) -> None:
        """What follows on a stream is of this task, or of none."""
        stream.blank = None
        if not stream.begun:
            self._kept.drop(by_stderr)
        stream.marked, stream.away = True, task != str(self._number)

    def widen(self) -> None:
        """Keep whole pages from now on."""
        self._kept.most = MOST_LINES

    def take(self) -> list[LogLine]:
        """What was kept since the last time."""
        return [leveled(line) for line in self._kept.take()]

    def rest(self) -> list[LogLine]:
        """The same, when no more will come."""
        for stream in self._streams.values():
            self._let_go(stream)
        return self.take()

    def _let_go(self, stream: _Stream) -> None:
        if stream.blank is not None:
            self._kept.add(stream.blank)
            stream.blank = None


def is_of_stderr(line: LogLine) -> bool:
    """Which stream it came by: the platform's level of a line says that, and nothing else."""
    return line.level == "error"


def is_echo(line: LogLine) -> bool:
    """Whether it says for the second time that a call begins."""
    return is_of_stderr(line) and BEGIN_LINE.match(line.message) is not None


def leveled(line: LogLine) -> LogLine:
    """The line with the level of the `logging` record that it is, if it looks like one."""
    found = _LEVEL.match(line.message)
    if found is None:
        return line
    return replace(line, level=_LEVELS.get(found[1], found[1].lower()))


# --- reading -------------------------------------------------------------------------------------


def read(access: LogAccess, call: LoggedCall, tail: int | None) -> list[LogLine]:
    """The last lines of the call, `tail` or `MOST_LINES` of them at the most."""
    where = call.where()
    if where is None or tail == 0:
        return []
    with closing(access.open()) as source:
        return _begin(source, access, call, where, tail)[0].rest()


def _begin(
    source: LogPages, access: LogAccess, call: LoggedCall, where: tuple[int, int], tail: int | None
) -> tuple[Cutter, int, bool]:
    """A cutter that was fed all that there is, the highest id of it, and whether it is complete."""
    most = MOST_LINES if tail is None else min(tail, MOST_LINES)
    limit = FIRST_PAGE
    for _ in range(2):  # the newest lines, and then more of them
        page = source.page(*where, None, limit)
        cutter = Cutter(call.number, most, reused=access.reused)
        cutter.feed(page.lines)
        whole = len(page.lines) < limit
        alone = not cutter.reused and most <= limit
        limit = _size(page.lines)
        if whole or alone or cutter.begun or limit <= len(page.lines):
            break
    if whole or not cutter.reused or cutter.begun:
        return cutter, _highest(page.lines), page.complete
    # It began before these, or not at all: which calls' lines they are is not said in them.
    cutter, position = Cutter(call.number, most, reused=access.reused), 0
    for page in _pages(source, where, limit):
        cutter.feed(page.lines)
        position = max(position, _highest(page.lines))
        if cutter.over:
            break
    return cutter, position, page.complete


def _pages(source: LogPages, where: tuple[int, int], limit: int) -> Iterator[LogPage]:
    """The whole log, from its beginning."""
    position, full = 0, True
    while full:
        page = source.page(*where, position, limit)
        position = max(position, _highest(page.lines))
        full, limit = len(page.lines) >= limit, _size(page.lines)
        yield page


def whole(source: LogPages, where: tuple[int, int]) -> Iterator[LogLine]:
    """All lines of a run, however many."""
    for page in _pages(source, where, FIRST_PAGE):
        yield from map(leveled, page.lines)


def follow(access: LogAccess, call: LoggedCall, tail: int | None) -> Iterator[LogLine]:
    """The lines of the call as they come, until it is done; begins with the last `tail`."""
    while call.where() is None:
        if call.done():
            return
        call.wait(access.pacing.log_pause)
    last = None
    with closing(access.open()) as source:
        while (where := call.where()) != last and where is not None:
            last = where  # it may go on in another run, when this one was lost
            yield from _follow_run(source, access, call, where, tail)


def _follow_run(
    source: LogPages, access: LogAccess, call: LoggedCall, where: tuple[int, int], tail: int | None
) -> Iterator[LogLine]:
    cutter, position, complete = _begin(source, access, call, where, tail)
    cutter.widen()
    log = RunTail(source, where, position)
    if tail == 0:
        cutter.take()
    elif cutter.sure:
        yield from cutter.take()
    pause = shortest = pause_of(access, source)
    quiet = 0.0
    while not (complete or cutter.over):
        new, full, over = log.read()
        cutter.feed(new)
        if cutter.sure:
            yield from cutter.take()
        if full:
            continue
        quiet = 0.0 if new or not call.done() else quiet + pause
        complete = over or quiet > access.pacing.log_grace or call.where() != where
        pause = shortest if new else min(pause * 1.5, LONGEST_PAUSE)
        if not complete:
            time.sleep(pause) if call.done() else call.wait(pause)
    yield from cutter.rest()


def pause_of(access: LogAccess, source: LogPages) -> float:
    """Seconds between two reads of logs that grow."""
    return min(max(access.pacing.log_pause, REQUESTS * source.pace), LONGEST_PAUSE)


class RunTail:
    """The log of a run as it grows, after a `position`: each line once, and late ones too."""

    def __init__(self, source: LogPages, where: tuple[int, int], position: int = 0) -> None:
        self.where = where
        self._source, self._position = source, position
        self._seen: set[int] = set()
        self._limit, self._first = FIRST_PAGE, True

    def read(self) -> tuple[list[LogLine], bool, bool]:
        """New lines; whether there are more already; whether there can be no more after that."""
        position = self._position
        page = self._source.page(*self.where, max(0, position - OVERLAP), self._limit)
        # The first overlap was in what we began with, or is of others.
        first, self._first = self._first, False
        new = [x for x in page.lines if x.id not in self._seen and (x.id > position or not first)]
        full, self._limit = len(page.lines) >= self._limit, _size(page.lines)
        self._position = max(position, _highest(page.lines))
        self._seen = {line.id for line in page.lines if line.id > self._position - OVERLAP}
        return new, full, page.complete


def _highest(lines: Iterable[LogLine]) -> int:
    return max((line.id for line in lines), default=0)


def _size(lines: list[LogLine]) -> int:
    """How many lines the next page may have, if its lines are as long as these."""
    mean = sum(len(line.message) for line in lines) / max(1, len(lines))
    return int(min(max(SMALLEST_PAGE, PAGE_CHARACTERS / max(1.0, mean)), MOST_LINES))
