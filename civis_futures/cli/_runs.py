"""The commands about runs: `ps`, `logs`, `cancel`.

Runs of this package are known by the names of their scripts, which no other script has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .._display.panels import duration
from .._exceptions import PlatformError
from .._futures import logs as _logs
from .._types import Job, JobKind, LogLine, Run
from .._wire import ScriptName
from ._connection import connected
from ._terms import DIFFERS, MistakeError, show_json, show_table

if TYPE_CHECKING:
    from .._api.client import PlatformClient

#: How many pages of a list are read at the most; 50 rows each.
PAGES = 10


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run of ours."""

    pool: str
    session: str | None
    worker: int
    job: Job
    run: Run
    url: str

    @property
    def active(self) -> bool:
        """Whether it may still do something."""
        return not self.run.state.over

    def record(self) -> dict[str, Any]:
        """As JSON has it: times in seconds since the epoch."""
        run = self.run
        return {
            "pool": self.pool, "session": self.session, "worker": self.worker,
            "job_id": self.job.id, "run_id": run.id, "state": run.said or str(run.state),
            "created": run.created, "started": run.started, "finished": run.finished,
            "url": self.url,
        }  # fmt: skip


def add(commands: Any) -> None:
    """Add the commands."""
    ps = commands.add_parser(
        "ps",
        help="list your runs of this package, by session",
        description="Lists the runs that this package started with your key, newest first.",
    )
    ps.add_argument("--all", action="store_true", help="also list runs that have ended")
    ps.add_argument("--json", action="store_true", help="print JSON")
    ps.set_defaults(run=_ps, takes_command=False)
    logs = commands.add_parser(
        "logs",
        help="print the log of a run",
        description="Prints the log of a run, of which `ps` shows the number: "
        "civis-futures logs 300004 --tail 20",
    )
    logs.add_argument(
        "which", metavar="RUN|JOB", help="the number of a run or job; or run:N, job:N"
    )
    logs.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    logs.add_argument("--follow", action="store_true", help="go on until the run has ended")
    logs.add_argument("--json", action="store_true", help="print a JSON object for each line")
    logs.add_argument(
        "--container",
        action="store_true",
        help="leave out nothing, not even the second copy of a line that says where a call begins",
    )
    logs.set_defaults(run=_print_logs, takes_command=False)
    cancel = commands.add_parser(
        "cancel",
        help="stop runs that this package started for you",
        description="Stops some runs, or all: civis-futures cancel 300003 300004",
    )
    cancel.add_argument("which", metavar="RUN|JOB", nargs="*")
    cancel.add_argument("--all", action="store_true", help="all active runs")
    cancel.add_argument("--dry-run", action="store_true", help="only say what would be stopped")
    cancel.add_argument("--json", action="store_true", help="print JSON")
    cancel.set_defaults(run=_cancel, takes_command=False)


# --- ps ------------------------------------------------------------------------------------------


def _ps(options: argparse.Namespace, _: list[str]) -> int:
    with connected() as client:
        found = [each for each in _mine(client, ended=options.all) if options.all or each.active]
    found.sort(key=lambda each: (each.run.created or 0.0, each.run.id), reverse=True)
    found.sort(key=lambda each: each.session or "")  # those without one first
    if options.json:
        show_json([each.record() for each in found])
        return 0
    if not found:
        print("No run is active." if not options.all else "There is no run.")
        return 0
    now = client.clock.now()
    show_table(
        ("RUN", "JOB", "STATE", "FOR", "SESSION", "WORKER", "POOL"),
        [
            (each.run.id, each.job.id, each.run.said or each.run.state, _age(each.run, now),
             each.session, each.worker, each.pool)
            for each in found
        ],
    )  # fmt: skip
    return 0


def _age(run: Run, now: float) -> str:
    """How long it has been in its state; or how long it ran, if it is over."""
    if run.state.over:
        begin, end = run.started or run.created, run.finished
        return duration(max(0.0, end - begin) if begin and end else None)
    begin = run.started or run.created
    return duration(max(0.0, now - begin) if begin else None)


def _mine(client: PlatformClient, *, ended: bool) -> Iterator[FoundRun]:
    """Runs of ours, those of scripts that are not archived first; each once."""
    seen: set[int] = set()
    for archived in (False, True) if ended else (False,):
        for kind in JobKind:
            # Hidden scripts are the rule; whether a list of them has the others is not documented.
            for hidden in (True,) if client.traits.hidden_lists_have_all else (True, False):
                for found in _listed(client, kind, hidden, archived):
                    if found.run.id not in seen:
                        seen.add(found.run.id)
                        yield found


def _listed(
    client: PlatformClient, kind: JobKind, hidden: bool, archived: bool
) -> Iterator[FoundRun]:
    for page in range(1, PAGES + 1):
        rows, more = client.list_jobs(
            kind, hidden=hidden, page=page, low_priority=False, archived=archived
        )
        for row in rows:
            job = Job(row.job_id, kind)
            found = row.run and _found(client, row.name, job, row.run)
            if found:
                yield found
        if not more:
            return


def _found(client: PlatformClient, name: str, job: Job, run: Run) -> FoundRun | None:
    ours = ScriptName.parsed(name)
    if ours is None:
        return None
    return FoundRun(ours.pool, ours.session, ours.worker, job, run, client.job_url(job))


# --- which one -----------------------------------------------------------------------------------


def _finder(client: PlatformClient) -> Callable[[str], FoundRun]:
    """From what the user typed to a run; the lists are read once, and as far as needed."""
    known: list[FoundRun] = []
    rest = _mine(client, ended=True)

    def find(text: str) -> FoundRun:
        kind, _, number = text.rpartition(":")
        if kind not in ("", "run", "job") or not number.isascii() or not number.isdigit():
            raise MistakeError(f"{text!r} is no run or job: say its number, run:N or job:N")
        wanted = int(number)

        def matching(several: Iterable[FoundRun]) -> list[FoundRun]:
            return [
                each
                for each in several
                if (each.run.id == wanted and kind != "job")
                or (each.job.id == wanted and kind != "run")
            ]

        if not matching(known):
            for each in rest:
                known.append(each)
                if matching([each]):
                    break
        found = matching(known)
        if len(found) > 1:
            raise MistakeError(f"{wanted} is a run and a job: say run:{wanted} or job:{wanted}")
        if not found and kind != "run":
            found = list(_asked(client, wanted))
        if not found:
            raise MistakeError(f"there is no run or job {wanted} that this package has started")
        return found[0]

    return find


def _asked(client: PlatformClient, number: int) -> Iterator[FoundRun]:
    """A job of ours that is in no list any more."""
    for kind in JobKind:
        job = Job(number, kind)
        with contextlib.suppress(_NotThere), _absent():
            run = client.latest_run(job)
            name = str(client.get_script(job).get("name"))
            found = run and _found(client, name, job, run)
            if found:
                yield found
                return


class _NotThere(Exception):
    """The platform has no such thing."""


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    try:
        yield
    except PlatformError as error:
        if error.status == 404:
            raise _NotThere from None
        raise


# --- logs ----------------------------------------------------------------------------------------


def _print_logs(options: argparse.Namespace, _: list[str]) -> int:
    if options.tail is not None and options.tail < 0:
        raise MistakeError("--tail must be 0 or more")
    with connected() as client:
        found = _finder(client)(options.which)
        for line in _lines(client, found, options.tail, options.follow):
            if _logs.is_echo(line) and not options.container:
                continue
            text = json.dumps(asdict(line)) if options.json else line.message
            print(text, flush=options.follow)
    return 0


def _lines(
    client: PlatformClient, found: FoundRun, tail: int | None, follow: bool
) -> Iterator[LogLine]:
    from .._api.client import LogSource

    where = found.job.id, found.run.id
    source = LogSource(client, found.job.kind)
    if tail is None and not follow:
        return _logs.whole(source, where)
    access = _logs.LogAccess(lambda: source, reused=False)
    # It is over when its log is complete: nothing else tells of it here.
    call = _logs.LoggedCall(None, lambda: where, lambda: not follow, time.sleep)
    return _logs.follow(access, call, tail) if follow else iter(_logs.read(access, call, tail))


# --- cancel --------------------------------------------------------------------------------------


def _cancel(options: argparse.Namespace, _: list[str]) -> int:
    if options.all == bool(options.which):
        raise MistakeError("say which runs to cancel, or --all")
    records = []
    with connected() as client:
        if options.all:
            chosen = [found for found in _mine(client, ended=False) if found.active]
        else:
            find = _finder(client)
            chosen = [find(text) for text in options.which]  # all, before anything is stopped
        for found in chosen:
            if found.active and not options.dry_run:
                client.cancel_run(found.job, found.run.id)
            records.append({**found.record(), "cancelled": found.active and not options.dry_run})
    if options.json:
        show_json(records)
    else:
        for record, found in zip(records, chosen, strict=True):
            stopped = "would be asked to stop" if options.dry_run else "asked to stop"
            said = stopped if found.active else f"is over: {record['state']}"
            print(f"run {record['run_id']} of {record['pool']}: {said}")
        if not records:
            print("No run is active.")
    return 0 if all(found.active for found in chosen) else DIFFERS
