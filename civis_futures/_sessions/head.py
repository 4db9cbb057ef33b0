"""What the platform keeps of a session: who holds it, which workers it has had. As JSON.

Each process that opens the session writes a head of its own, and no other.
Knows nothing of how it is read and written, nor of what the workers did.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._types import ANY_RESOURCES, JobKind, Resources
from .._wire import Order

VERSION = 2


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a session open; times in seconds since the epoch, by the platform's
    clock, since those of two machines need not agree.

    `place` tells apart what may have equal process ids: machines, their boots, and containers.
    """

    token: str
    host: str
    place: str
    pid: int
    started: str
    since: float
    beat: float

    @classmethod
    def here(cls, now: float) -> Holder:
        """The process that we are in."""
        pid = os.getpid()
        token = secrets.token_hex(8)
        return cls(token, socket.gethostname(), _place(), pid, _process_start(pid), now, now)

    def gone(self, now: float, silence: float) -> bool:
        """Whether it has ended, or has given no sign of life for `silence` seconds."""
        if self.place == _place() and self.started != _process_start(self.pid):
            return True
        return now - self.beat > silence

    def __str__(self) -> str:
        """For people."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        own = " (this process)" if (self.place, self.pid) == (_place(), os.getpid()) else ""
        return f"process {self.pid}{own} on {self.host}, since {since}"


@dataclass(slots=True)
class Entry:
    """A worker: its token, its script, and its first calls as (task, attempt, key).

    `over`: nothing more will come of it, and what it has not answered counts as never sent. Its run
    was `run` then, or 0 if it never had one, or that is not known.
    """

    token: str
    job: int
    first: list[tuple[int, int, str]] = field(default_factory=list)
    last: bool = False
    over: bool = False
    resources: dict[str, float] | None = None
    run: int = 0
    processes: int = 1

    @classmethod
    def of(cls, order: Order, job: int, resources: Resources) -> Entry:
        """The worker that got this order."""
        first = [(call.task, call.attempt, call.key) for call in order.letter.calls]
        size = None if resources == ANY_RESOURCES else asdict(resources)
        return cls(
            order.worker, job, first, order.letter.stop, False, size, processes=order.processes
        )

    @property
    def size(self) -> Resources:
        """What its container has."""
        return ANY_RESOURCES if self.resources is None else Resources(**self.resources)


@dataclass(slots=True)
class Head:
    """All of it. `created` is in seconds since the epoch; `key` is what answers are sealed with.

    One that is not `ready` only says which process wants to hold the session: what there was before
    is not in it yet.
    """

    name: str
    created: float
    kind: JobKind
    inbox: int = 0
    holder: Holder | None = None
    workers: list[Entry] = field(default_factory=list)
    ready: bool = False
    key: str = field(default="", repr=False)

    def to_json(self) -> str:
        """As text."""
        value = {**asdict(self), "kind": self.kind.value, "version": VERSION}
        for worker in value["workers"]:
            if worker["processes"] == 1:  # earlier versions do not know the word
                del worker["processes"]
        return json.dumps(value, separators=(",", ":"))


def head_from_json(value: Any) -> Head:
    """The head that a decoded JSON value holds; ValueError if it holds none."""
    try:
        value = dict(value)
        if value.pop("version") != VERSION:
            raise ValueError("it is of another version of civis_futures")
        holder = value["holder"]
        value["holder"] = None if holder is None else Holder(**holder)
        value["kind"] = JobKind(value["kind"])
        value["workers"] = [Entry(**entry) for entry in value["workers"]]
        for entry in value["workers"]:
            entry.first = [(task, attempt, key) for task, attempt, key in entry.first]
        return Head(**value)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the head of a session: {error}") from error


def _place() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """When a process began, by a clock of its machine; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "unknown"
