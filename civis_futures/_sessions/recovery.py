"""From the head of a session, its inbox and its workers' answers to what was found. Pure.

Which of the tasks a call is that is submitted now, its key decides, wherever it was submitted then.

A task's last attempt decides. It was answered: that is its end, if the function returned or raised.
A worker has it in hand: it stays there, also if the container has ended meanwhile, which the
scheduler will see. Anything else was never sent, or was taken back: it is sent again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .._pool.ledger import Inheritance
from .._pool.mailbox import WorkerRun
from .._scheduling import events as e
from .._types import Inherited, TaskId, WorkerId
from .._wire import OUTCOME_PICKLING, RAISED, RETURNED, Answer, Inbox, Letter
from .head import Entry, Head
from .identity import without_code

#: What the function itself did; all else is tried again in the next process.
_FINISHED = (RETURNED, RAISED, OUTCOME_PICKLING)

FoundWorker = tuple[e.Report, WorkerRun]


@dataclass(slots=True)
class Findings:
    """What earlier processes have left: tasks, the keys of these, and workers."""

    found: dict[TaskId, e.FoundTask] = field(default_factory=dict)
    keys: dict[TaskId, str] = field(default_factory=dict)
    workers: tuple[Inherited, ...] = ()
    highest_id: int = 0
    inheritance: Inheritance = field(default_factory=Inheritance)

    @property
    def answered(self) -> int:
        """How many tasks have ended."""
        return sum(found.answer is not None for found in self.found.values())

    @property
    def held(self) -> int:
        """How many tasks are held by workers."""
        return sum(len(worker.wanted) for worker in self.workers)


class Calls:
    """Which task each call is that this process submits. A signal's handler may use it at any time.

    Equal calls are the tasks of earlier processes in the order of their numbers. A call that is not
    among them is a new task. Its number is its place among the calls of this process, if no earlier
    call is known by that number, so that the same calls in the same order have the same numbers.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._equal: dict[str, deque[TaskId]] = {}
        self._alike: dict[str, list[TaskId]] = {}
        for task, key in sorted(findings.keys.items()):
            self._equal.setdefault(key, deque()).append(task)
            self._alike.setdefault(without_code(key), []).append(task)
        self._places = itertools.count()
        self._unused = itertools.count(max(findings.found, default=-1) + 1)
        self._taken: dict[TaskId, object] = dict.fromkeys(findings.keys)

    def claim(self, key: str) -> TaskId:
        """The task of this call, which is no other call's from now on."""
        place = next(self._places)
        try:
            return self._equal[key].popleft()
        except (KeyError, IndexError):
            return self._number(place)

    def new(self) -> TaskId:
        """A new task."""
        return self._number(next(self._places))

    def _number(self, place: int) -> TaskId:
        mine = object()  # two may ask for a number at a time: one of them gets it
        numbers = map(TaskId, itertools.chain([place], self._unused))
        return next(task for task in numbers if self._taken.setdefault(task, mine) is mine)

    def changed(self, key: str) -> TaskId | None:
        """A task with the name and the arguments of this call, but of other code, which was not
        claimed; None if there is none, or if one with this key is left.
        """
        if self._equal.get(key):
            return None
        alike = self._alike.get(without_code(key), ())
        return next((task for task in alike if task in self._findings.found), None)


@dataclass(slots=True)
class _Past:
    """A worker that has had a run."""

    number: WorkerId
    entry: Entry
    report: e.Report
    letter: Letter
    answers: dict[e.Given, Answer]
    given: list[e.Given]  # all that it ever got, as far as anybody knows

    @property
    def over(self) -> bool:
        return self.report.run is not None and self.report.run.state.over

    @property
    def unanswered(self) -> list[e.Given]:
        return [call for call in self.given if call not in self.answers]


def findings(head: Head, seen: Mapping[WorkerId, FoundWorker], inbox: Inbox) -> Findings:
    """What there is; `seen` are those workers, by their place in the head (from 1), that have had
    a run.
    """
    result = Findings(highest_id=len(head.workers))
    pasts = []
    for number, entry in enumerate(head.workers, 1):
        worker = WorkerId(number)
        if worker in seen:
            report, worker_run = seen[worker]
            result.inheritance.worker_runs[worker] = worker_run
            pasts.append(_past(worker, entry, report, inbox.letters.get(entry.token, Letter())))
        else:
            for task, attempt, _ in entry.first:
                _note(result, e.FoundTask(worker, attempt), TaskId(task), "")
    for past in pasts:
        _note_all(result, past)
        result.inheritance.calls.update(
            ((TaskId(call.task), call.attempt), call) for call in past.letter.calls
        )
    adopted = (_inherited(result, past) for past in pasts)
    result.workers = tuple(worker for worker in adopted if worker is not None)
    return result


def _past(number: WorkerId, entry: Entry, report: e.Report, letter: Letter) -> _Past:
    answers: dict[e.Given, Answer] = {}
    for answer in report.answers:
        answers.setdefault((TaskId(answer.task), answer.attempt), answer)
    pairs = [(task, attempt) for task, attempt, _ in entry.first]
    pairs += [(call.task, call.attempt) for call in letter.calls]
    pairs += [*letter.revoked, *letter.ended]
    given = dict.fromkeys((TaskId(task), attempt) for task, attempt in pairs)
    given.update(dict.fromkeys(answers))
    return _Past(number, entry, report, letter, answers, list(given))


def _note_all(result: Findings, past: _Past) -> None:
    keys = {(task, attempt): key for task, attempt, key in past.entry.first}
    keys.update(((call.task, call.attempt), call.key) for call in past.letter.calls)
    for task, attempt in past.given:
        answer = past.answers.get((task, attempt))
        key = answer.key if answer is not None else keys.get((task, attempt), "")
        good = answer if answer is not None and answer.kind in _FINISHED else None
        # What will be run again may be another call: the user may have mended it.
        _note(result, e.FoundTask(past.number, attempt, good), task, key if good is answer else "")


def _note(result: Findings, found: e.FoundTask, task: TaskId, key: str) -> None:
    known = result.found.get(task)
    if known is None or (known.attempt, bool(known.answer)) < (found.attempt, bool(found.answer)):
        result.found[task] = found
        result.keys.pop(task, None)
        if key:
            result.keys[task] = key


def _inherited(result: Findings, past: _Past) -> Inherited | None:
    """The worker, if there is still something to be seen of it."""
    assert past.report.run is not None, "found by its run"
    ended = set(past.letter.ended)
    wanted = [
        call
        for call in past.unanswered
        if call not in ended and result.found[call[0]] == e.FoundTask(past.number, call[1])
    ]
    if past.over and not wanted:
        return None
    calls = wanted if past.over else past.unanswered
    asked = {*past.letter.revoked, *past.letter.ended}
    return Inherited(
        past.number,
        past.report.run.state,
        calls=tuple(calls),
        wanted=tuple(wanted),
        revoked=tuple(call for call in calls if call in asked or call not in wanted),
        launch_calls=tuple((TaskId(task), attempt) for task, attempt, _ in past.entry.first),
        calls_given=len(past.given),
        one_shot=past.entry.last,
        stop=past.letter.stop,
        resources=past.entry.size,
        processes=past.entry.processes,
    )
