"""A thousand workers, and many tasks: what an event costs, and what the inboxes hold."""

from __future__ import annotations

import random
import sys
from collections import Counter, defaultdict

import pytest

from civis_futures import _wire
from civis_futures._executor.options import PoolOptions
from civis_futures._scheduling import events as e
from civis_futures._scheduling.scheduler import Scheduler
from civis_futures._scheduling.state import Policy
from civis_futures._types import Inherited, Run, RunState, TaskId, WorkerId


class Crowd:
    """Workers that run, and what they were last told; calls take a second each."""

    def __init__(
        self, workers: int, tasks: int, inboxes: int = 1, each: int = 10, refuse: bool = False
    ):
        policy = Policy(workers, idle_timeout=1e6, inboxes=inboxes)
        self.scheduler = Scheduler(policy, jitter=lambda: 0.5)
        self.workers, self.now = workers, 1.0
        self.refuse = refuse  # whether every tenth worker refuses every other call
        self.inbox: dict[WorkerId, list[e.Given]] = {}
        self.writes: list[e.WriteInbox] = []
        self.answered = 0
        self.work: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._pending: list[e.Command] = []
        alive = [Inherited(WorkerId(n), RunState.RUNNING) for n in range(1, workers + 1)]
        self.send(e.Attached(tuple(alive), workers))
        self.send(e.Done(e.Prepare(), e.Prepared(0.0, 0.0)))
        submits = [e.Submitted(TaskId(n), size=100) for n in range(tasks)]
        many = each * workers  # that are submitted at a time
        for first in range(0, tasks, many):
            self.send(submits[first], submits[first + 1 : first + many])

    def send(self, event: e.Event, more=()) -> None:
        """An event, whose function calls are counted under its name."""
        made = self.work[type(getattr(event, "command", event)).__name__]

        def note(_frame, what, _function):
            made["most"] += what == "call"

        before, made["most"] = made["most"], 0
        sys.setprofile(note)
        try:
            commands = self.scheduler.advance(event, self.now, more)
        finally:
            sys.setprofile(None)
        made["most"] = max(before, made["most"])
        for command in commands:
            if isinstance(command, e.WriteInbox):
                self.writes.append(command)
                self.inbox = {letter.worker: list(letter.calls) for letter in command.letters}
            if isinstance(command, e.Look | e.WriteInbox):
                self._pending.append(command)

    def second(self) -> None:
        """What is under way comes to its end, and each worker to the end of a call."""
        self.now += 1.0
        pending, self._pending = self._pending, []
        for command in pending:
            if isinstance(command, e.WriteInbox):
                self.send(e.Done(command))
            else:
                reports = tuple(self._report(worker) for worker, _ in command.workers)
                self.send(e.Done(command, e.Looked(reports, 1, 0.0)))
        if not pending:
            self.send(e.Tick())

    def _kind(self, worker: WorkerId, task: int) -> str:
        unfit = self.refuse and worker % 10 == 0 and task % 2
        return _wire.REFUSED if unfit else _wire.RETURNED

    def _report(self, worker: WorkerId) -> e.Report:
        ended, self.inbox[worker] = self.inbox.get(worker, [])[:1], self.inbox.get(worker, [])[1:]
        self.answered += len(ended)
        answers = tuple(
            _wire.Answer(
                task,
                self._kind(worker, task),
                attempt=given,
                started=self.now - 1,
                finished=self.now,
            )
            for task, given in ended
        )
        run = Run(int(worker), RunState.RUNNING, "running")
        return e.Report(worker, run, answers, read=True, letters_posted=1)


def most_work(workers: int, tasks: int, refuse: bool = False) -> dict[str, int]:
    """The most function calls at one event, by its name, from the first call to the last."""
    crowd = Crowd(workers, tasks, inboxes=-(-workers // 50), refuse=refuse)
    for _ in range(8):
        crowd.second()
    assert crowd.answered >= 2 * workers
    return {name: made["most"] for name, made in crowd.work.items()}


def test_an_event_costs_no_more_for_each_worker_if_there_are_many():
    """Each idle worker was once looked for among all of them, one by one."""
    few, many = most_work(50, 5000), most_work(500, 50_000)
    for name in ("Submitted", "Look", "WriteInbox", "Tick"):
        assert many[name] < 1.2 * 10 * few[name], name


def test_an_event_costs_no_more_if_there_are_many_tasks():
    few, many = most_work(20, 2000), most_work(20, 50_000)
    for name in ("Submitted", "Look", "WriteInbox", "Tick"):
        assert many[name] < 1.2 * few[name], name


def test_an_event_costs_little_more_if_calls_refuse_their_containers():
    """And no more if there are many tasks."""
    few, many, plain = (
        most_work(20, 2000, refuse=True),
        most_work(20, 50_000, refuse=True),
        most_work(20, 50_000),
    )
    for name in ("Submitted", "Look", "WriteInbox", "Tick"):
        assert many[name] < 1.2 * few[name], name
        assert many[name] < 1.5 * plain[name], name


def packed_inboxes(crowd: Crowd, inboxes: int) -> list[int]:
    """How long the JSON values are that this would be, with calls of a hundred bytes that have
    nothing in common.
    """
    chance = random.Random(0)
    letters: list[dict[str, _wire.Letter]] = [{} for _ in range(inboxes)]
    for place, (worker, given) in enumerate(crowd.inbox.items()):
        calls = [_wire.Call(task, _wire.Blob.of(chance.randbytes(75)), n) for task, n in given]
        letters[place % inboxes][f"{worker:016x}"] = _wire.Letter(tuple(calls))
    return [len(_wire.packed(_wire.Inbox(each))) for each in letters]


@pytest.mark.parametrize("session", [None, pytest.param("theirs", marks=pytest.mark.repeats)])
def test_the_inboxes_of_a_thousand_workers_fit_into_json_values(session):
    """A session has one for all processes; else there are as many as it takes to keep workers busy
    for an hour and a half with calls of a minute.
    """
    policy = PoolOptions(max_workers=1000, session=session).policy
    assert policy.inboxes == (1 if session else 40)
    crowd = Crowd(1000, 200_000, policy.inboxes, each=200)
    crowd.second()
    calls = [len(given) for given in crowd.inbox.values()]
    assert len(calls) == 1000
    assert min(calls) >= (2 if session else 99)
    assert policy.inline_bytes == (600 if session else 24_000)
    assert max(packed_inboxes(crowd, policy.inboxes)) <= _wire.JSON_VALUE_LIMIT


def test_what_says_nothing_new_is_written_as_a_sign_of_life():
    """Of several inboxes only those that changed are written otherwise."""
    crowd = Crowd(300, 300, inboxes=3)
    for _ in range(8):
        crowd.second()
    crowd.send(e.Submitted(TaskId(300)))
    for _ in range(3):
        crowd.second()
    assert [write.whole for write in crowd.writes[:1]] == [True]
    assert not crowd.writes[-1].whole
    crowd.now += 1000.0
    crowd.second()
    assert crowd.writes[-1].whole


def test_all_inboxes_are_written_where_one_could_not_be():
    crowd = Crowd(300, 300, inboxes=3)
    for _ in range(8):
        crowd.second()
    crowd.send(e.Submitted(TaskId(300)))
    crowd.send(e.Failed(crowd.writes[-1], OSError("no")))
    crowd.now += 10.0
    crowd.send(e.Tick())
    assert crowd.writes[-1].whole
