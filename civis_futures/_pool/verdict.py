"""Why a call was lost: from what its worker said, from its run and its log. Pure.

Platform has no field for the reason of a failure; the log has it. The words looked for in it are
assumptions, and are all here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import _wire
from .._scheduling.events import Given, Verdict
from .._types import Run, RunState, TaskId

#: How many lines of the log an error has.
TAIL = 15
#: Exit codes of a container that never ran a call, and what they mean.
NO_WORKER = {
    2: "was given no order that its version of civis_futures can read (exit code 2)",
    _wire.SETUP_FAILED: "could not be set up: setup_cmd failed",
    _wire.NO_PROGRAM: "could not fetch the program of the worker",
    126: "could not run python3 (or what its template says): exit code 126",
    127: "could not run python3 (or what its template says): its image has none (exit code 127)",
}

_ABANDONED = "its container ended: for the whole lease, this process had given no sign of life"
_STARTED_AGAIN = "its container was lost, and the platform has started it again within its run"
_MEMORY_LINE = "Process ran out of its"
_EXIT_LINE = re.compile(r"Error on job: Process ended with an error, exiting: (\d+)\.?$")


def told_by_run(run: Run | None, said: Sequence[str], image: str, call: Given) -> Verdict:
    """What a run and its log tell of a worker that ended without a word, while at this call."""
    last = said[-TAIL:]  # the platform has the last word; a task may print the same before
    memory = any(line.startswith(_MEMORY_LINE) for line in last)
    codes = [match for line in last if (match := _EXIT_LINE.match(line))]
    exit_code = int(codes[-1].group(1)) if codes else None
    reason = _end_of_run(run, memory, exit_code, image)
    if last[-1:] in ([_wire.SILENCE], [_wire.IDLE_SILENCE]) and exit_code is None:
        reason = _ABANDONED
    elif _wire.STARTED_AGAIN in last:
        reason = _STARTED_AGAIN
    return Verdict(
        run,
        reason,
        exit_code,
        outside=run is not None and run.state is RunState.CANCELLED,
        memory=memory,
        unstarted=_is_unstarted(run, exit_code) and not any(map(_beginning, said)),
        started=None if run is None else run.started,
        finished=None if run is None else run.finished,
        peak_memory=None if run is None else run.max_memory,
        log_tail=_tail(part_of(said, call)),
    )


def told_by_worker(answer: _wire.Answer, run: Run | None, said: Sequence[str]) -> Verdict:
    """What the worker tells of a call; `said` is the part of the log that is the call's."""
    code = int(answer.detail) if answer.detail.lstrip("-").isdigit() else None
    crashed = answer.kind == _wire.CRASHED
    memory = answer.kind == _wire.MEMORY
    plain = crashed or memory or answer.kind == _wire.TIMED_OUT
    reason = answer.text if plain else f"{answer.kind}: {answer.text}".rstrip(": ")
    return Verdict(
        run,
        reason,
        code,
        memory=memory,
        crashed=crashed,
        timed_out=answer.kind == _wire.TIMED_OUT,
        started=answer.started,
        finished=answer.finished,
        peak_memory=answer.peak_mb or None,
        log_tail=_tail(said),
    )


def _tail(said: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(_wire.shown, said[-TAIL:]))


def _beginning(line: str) -> Given | None:
    """The call that begins at this line of a log, if one does."""
    match = _wire.BEGIN_LINE.search(line)
    return None if match is None else (TaskId(int(match.group(1))), int(match.group(2)))


def _process(line: str) -> str:
    """In which process a call begins at this line; empty if there is only one."""
    match = _wire.BEGIN_LINE.search(line)
    return (match and match.group(3)) or ""


def part_of(said: Sequence[str], call: Given) -> Sequence[str]:
    """The lines of a log that are of this call; all, if it does not tell where it begins."""
    if not any(_beginning(line) == call for line in said):
        return said
    part: list[str] = []
    inside = False
    for line in said:
        begun, goes_on = _beginning(line), _wire.GO_ON_LINE.match(line)
        if begun is None and goes_on is None:
            if inside:
                part.append(line)
            continue
        if inside and part and not part[-1]:
            part.pop()  # the newline with which a mark begins
        inside = begun == call if goes_on is None else goes_on.group(1) == str(call[0])
    return part


def reached(calls: Sequence[Given], said: Sequence[str], processes: int = 1) -> list[int]:
    """The places of those of these calls that the worker was at: of each of its processes the last
    one that the log tells of.

    If it tells of fewer processes, all those count that it does not tell of, and as many of the
    next ones as may have begun: of a long log only the end is read, and its last lines may be lost.
    [-1]: it was at none, as it had nothing to do when it ended.
    """
    if said[-1:] == [_wire.IDLE_SILENCE]:
        return [-1]
    places = {call: place for place, call in enumerate(calls)}
    at: dict[str, int] = {}  # by process
    begun = set()
    for line in said:
        call = _beginning(line)
        if call is not None and call in places:
            at[_process(line)] = places[call]
            begun.add(places[call])
    if len(at) >= processes:
        return sorted(at.values())
    last = max(begun, default=-1)
    untold = [place for place in range(last) if place not in begun]
    more = max(0, processes - len(at) - len(untold))
    return sorted([*at.values(), *untold, *range(len(calls))[last + 1 : last + 1 + more]])


def _is_unstarted(run: Run | None, exit_code: int | None) -> bool:
    """Whether the container never got as far as to run a call."""
    if run is None or run.state is not RunState.FAILED:
        return False
    return run.started is None or exit_code in NO_WORKER


def _end_of_run(run: Run | None, memory: bool, exit_code: int | None, image: str) -> str:
    if memory:
        return "its container was killed because it used more memory than it had asked for"
    if run is None:
        return "its container ended"
    if run.state is RunState.CANCELLED:
        return "its run was cancelled, and not by this pool"
    if run.state is RunState.FAILED and run.started is None:
        return f"its container, of {image}, did not start{': ' + run.error if run.error else ''}"
    if exit_code in NO_WORKER:
        return f"its container, of {image}, {NO_WORKER[exit_code]}"
    code = "" if exit_code is None else f" with exit code {exit_code}"
    error = f" ({run.error})" if run.error else ""
    if run.state is RunState.FAILED:
        silence = (
            "" if code or error else ", and the reason is not known: perhaps its machine was lost"
        )
        return f"its container failed{code}{error}{silence}"
    return f"its container ended ({run.said or run.state}){code}{error} without an answer"
