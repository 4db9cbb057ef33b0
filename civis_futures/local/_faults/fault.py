"""A fault: what is to go wrong, and when. A frozen value; no I/O, no counting.

The owner makes faults, and the server, to which they travel as JSON, lets them happen. Which
request or run meets a fault is decided in `rules`; what happens then is done in `breakage`
(requests) and `_runs.runner` (runs).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any, Literal, Self, TypedDict, Unpack

from .._schema.exchange import Origin

LINK = "link"  # what stands for the path of every file link
METHODS = ("*", "DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

Kind = Literal[
    "answer", "garbage", "drop", "delay", "late", "cut", "corrupt", "drip", "stale", "shift",
    "down", "clock", "kill", "out_of_memory", "lose_node", "cancel", "restart", "freeze",
    "no_image", "stay_queued",
]  # fmt: skip
LISTS_ONLY = ("stale", "shift")
BEFORE_THE_START = ("no_image", "stay_queued")
OF_RUNS = (
    "kill", "out_of_memory", "lose_node", "cancel", "restart", "freeze", *BEFORE_THE_START,
)  # fmt: skip


class Which(TypedDict, total=False):
    """Which of the requests or runs that match meet the fault; see `Fault`."""

    skip: int
    every: int
    times: int | None
    chance: float


class Whose(Which, total=False):
    """The same for requests, which also have an origin."""

    origin: Origin | None


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that goes wrong on a local platform. Make one with one of the methods below.

    **Which requests.** ``on`` is a method and a path in the API's own form, such as
    ``"POST /scripts/containers/{id}/runs"``; ``*`` stands for anything: ``"GET *"``,
    ``"* /files/*"``, ``"/*"`` (all of the API). ``"link"`` is the path of all file links:
    ``"GET link"`` is a download, ``"POST link"`` and ``"PUT link"`` are uploads. ``origin`` is
    who makes the request: ``"client"``, ``"worker"`` (inside a run) or None for both; a link
    to a file belongs to the one who was given it.

    **Which runs.** ``script`` is a pattern for the script's name. ``after`` is how many seconds
    after the run's start the fault happens. With ``says``, it is about lines with this text
    that runs print (with ``print(..., flush=True)``), and the seconds count from that line. A
    fault also happens to runs that were active before it was added.

    **How often.** Requests (runs, lines) that match are counted. The first ``skip`` pass; of those
    that follow, each ``every``-th meets the fault, with the probability ``chance``, until it has
    happened ``times`` times (None: no limit). Chance depends on the platform's ``seed``, the
    fault's place among those that were added, and the count alone.

    A request meets one fault at most: the first, in the order in which they were added.

    With ``done=True`` the request takes effect first, and only its reply is lost, late or wrong;
    otherwise it never has an effect (after a delay, it has it then, even if who asked has gone).
    """

    kind: Kind
    on: str = "*"
    origin: Origin | None = None
    script: str = "*"
    skip: int = 0
    every: int = 1
    times: int | None = None
    chance: float = 1.0
    done: bool = False
    status: int | None = None
    retry_after: float | str | None = None
    seconds: float = 0.0  # how long, how late, or how far ahead, as the kind of fault has it
    says: str | None = None
    keep: float = 0.5
    rows: int = 1
    lasting: float | None = None  # seconds for which a run is frozen; None: until it is ended

    def __post_init__(self) -> None:
        """Refuse what can never be meant."""
        method, path = split(self.on)
        rules = (
            ("on", method in METHODS, f"must begin with one of {', '.join(METHODS)}, or a path"),
            ("on", path[:1] in ("*", "/") or path == LINK, 'must have a path, "*" or "link"'),
            ("origin", self.origin in (None, "client", "worker"), 'must be "client" or "worker"'),
            ("skip", self.skip >= 0, "must not be negative"),
            ("every", self.every >= 1, "must be at least 1"),
            ("times", self.times is None or self.times >= 0, "must not be negative"),
            ("chance", 0 <= self.chance <= 1, "must be between 0 and 1"),
            ("seconds", self.kind == "clock" or self.seconds >= 0, "must not be negative"),
            ("seconds", math.isfinite(self.seconds), "must be a number of seconds"),
            ("lasting", self.lasting is None or self.lasting >= 0, "must not be negative"),
            ("on", self.kind != "late" or path != LINK, "must be of the API, whose requests wait"),
            ("status", self.status is None or 200 <= self.status < 600, "must be 200 to 599"),
            ("keep", 0 <= self.keep < 1, "must be at least 0 and less than 1"),
        )
        for name, fits, rule in rules:
            if not fits:
                raise ValueError(f"{name} {rule}, not {getattr(self, name)!r}")

    # Requests.

    @classmethod
    def answer(
        cls,
        status: int,
        on: str = "*",
        *,
        retry_after: float | str | None = None,
        done: bool = False,
        **which: Unpack[Whose],
    ) -> Self:
        """The request is refused with this status, and with a ``Retry-After`` if one is given.

        `retry_after` is in seconds. If it is a str, it is sent as it is, in UTF-8: a date, or
        something that no platform should send.
        """
        return cls("answer", on, status=status, retry_after=retry_after, done=done, **which)

    @classmethod
    def garbage(cls, on: str = "*", *, done: bool = False, **which: Unpack[Whose]) -> Self:
        """A page of HTML with status 200, as a proxy or a page of maintenance gives it."""
        return cls("garbage", on, done=done, **which)

    @classmethod
    def drop(cls, on: str = "*", *, done: bool = False, **which: Unpack[Whose]) -> Self:
        """The connection is reset: before the request took effect, or after it (`done`)."""
        return cls("drop", on, done=done, **which)

    @classmethod
    def delay(
        cls, seconds: float, on: str = "*", *, done: bool = False, **which: Unpack[Whose]
    ) -> Self:
        """The request has to wait, or its reply (`done`)."""
        return cls("delay", on, seconds=seconds, done=done, **which)

    @classmethod
    def late(
        cls, seconds: float, on: str = "*", *, status: int | None = None, **which: Unpack[Whose]
    ) -> Self:
        """The request takes effect only after `seconds`, perhaps after newer ones.

        The client is told at once that it failed: the connection is reset, or the answer is one of
        this `status` (504 is that of a gateway that waits no longer). It is about requests to the
        API that change something.
        """
        return cls("late", on, seconds=seconds, status=status, **which)

    @classmethod
    def cut(cls, on: str = "*", *, keep: float = 0.5, **which: Unpack[Whose]) -> Self:
        """The body ends too soon, after the share `keep` of it, with the connection."""
        return cls("cut", on, keep=keep, **which)

    @classmethod
    def corrupt(cls, on: str = "*", **which: Unpack[Whose]) -> Self:
        """The body has its full length, but some of its bytes are others; the first one is."""
        return cls("corrupt", on, **which)

    @classmethod
    def drip(cls, on: str = "*", *, seconds: float = 1.0, **which: Unpack[Whose]) -> Self:
        """The body comes byte by byte, with a pause of `seconds` before each."""
        return cls("drip", on, seconds=seconds, **which)

    @classmethod
    def stale(cls, seconds: float, on: str = "GET *", **which: Unpack[Whose]) -> Self:
        """A list is answered as it was `seconds` ago: without newer rows, with older states."""
        return cls("stale", on, seconds=seconds, **which)

    @classmethod
    def late_outputs(cls, seconds: float, **which: Unpack[Whose]) -> Self:
        """Outputs of runs are listed only `seconds` after they were posted."""
        return cls("stale", "GET */outputs", seconds=seconds, **which)

    @classmethod
    def shift(cls, rows: int = 1, on: str = "GET *", **which: Unpack[Whose]) -> Self:
        """Rows move while pages are turned: each page but the first misses `rows` rows.

        If `rows` is negative, it repeats as many of the page before.
        """
        return cls("shift", on, rows=rows, **which)

    @classmethod
    def down(
        cls, seconds: float, on: str = "*", *, status: int | None = None, **which: Unpack[Whose]
    ) -> Self:
        """From the first request that meets it on, the whole platform is down for `seconds`.

        Every connection is reset, to API and links; or answered with `status`. Runs go on. It
        happens once if `times` does not say otherwise.
        """
        which.setdefault("times", 1)
        return cls("down", on, seconds=seconds, status=status, **which)

    @classmethod
    def clock(cls, seconds: float) -> Self:
        """As long as it is there, the platform's clock is `seconds` ahead of this machine's.

        If `seconds` is negative, it is behind. Its ``Date``, its times and its deadlines follow.
        Several such faults add up, and each request that is answered meanwhile is a hit.
        """
        return cls("clock", seconds=seconds)

    # Runs.

    @classmethod
    def kill(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """The run's processes get a SIGKILL; it fails with exit code 137."""
        return cls("kill", seconds=after, says=says, script=script, **which)

    @classmethod
    def out_of_memory(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """The run is killed as one that uses more memory than it may, and its log says so."""
        return cls("out_of_memory", seconds=after, says=says, script=script, **which)

    @classmethod
    def lose_node(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """The machine that runs this one is lost: all runs that are active fail at once.

        None of them has a line of the platform in its log. It happens once if `times` does not
        say otherwise.
        """
        which.setdefault("times", 1)
        return cls("lose_node", seconds=after, says=says, script=script, **which)

    @classmethod
    def cancel(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """Somebody else cancels the run."""
        return cls("cancel", seconds=after, says=says, script=script, **which)

    @classmethod
    def restart(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """The platform moves the run: it is killed, queued, and its command runs anew.

        It is the same run, with the same id, log and outputs; its folder and its key are new. With
        `says`, what it prints in its new life counts again.
        """
        return cls("restart", seconds=after, says=says, script=script, **which)

    @classmethod
    def freeze(
        cls, after: float = 0.0, *, says: str | None = None, script: str = "*",
        lasting: float | None = None, **which: Unpack[Which],
    ) -> Self:  # fmt: skip
        """The run's processes are stopped where they are, as on a machine that hangs.

        It says nothing, ends nothing, and stays running until somebody cancels it, or until it goes
        on after `lasting` seconds.
        """
        return cls("freeze", seconds=after, says=says, script=script, lasting=lasting, **which)

    @classmethod
    def no_image(cls, *, script: str = "*", **which: Unpack[Which]) -> Self:
        """The image cannot be pulled: the run fails without ever having started."""
        return cls("no_image", script=script, **which)

    @classmethod
    def stay_queued(cls, *, script: str = "*", **which: Unpack[Which]) -> Self:
        """The run stays queued until somebody cancels it."""
        return cls("stay_queued", script=script, **which)

    # Between owner and server.

    @property
    def of_runs(self) -> bool:
        """Whether it happens to runs, and not to requests."""
        return self.kind in OF_RUNS

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` understands: all that is not the default."""
        said = dataclasses.asdict(self)
        return {f.name: said[f.name] for f in dataclasses.fields(self) if said[f.name] != f.default}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**given)

    def __repr__(self) -> str:
        """Only what is not the default."""
        said = self.to_json()
        kind = said.pop("kind")
        return f"<Fault {' '.join([kind, *(f'{name}={said[name]!r}' for name in said)])}>"


def split(on: str) -> tuple[str, str]:
    """Return the method and the path of a pattern; a path alone goes with any method."""
    method, _, path = on.strip().rpartition(" ")
    return method.strip().upper() or "*", path


def fits(on: str, method: str, path: str) -> bool:
    """Tell whether a request to this path template (or `LINK`) is one that a pattern names."""
    wanted, pattern = split(on)
    return wanted in ("*", method) and fnmatch.fnmatchcase(path, pattern)
