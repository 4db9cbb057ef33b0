"""The scheduler alone: tables of (events, commands), and random histories with its invariants.

Time and chance are inputs here. The world of the histories is hostile: every request may fail,
every run may end at any moment in any way, answers come twice, late or not at all.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from civis_futures import BrokenContainerPool, _wire
from civis_futures import _events as e
from civis_futures._exceptions import PlatformError
from civis_futures._scheduler import Scheduler
from civis_futures._state import Policy, TaskPhase, WorkerPhase
from civis_futures._types import Run, RunState, TaskId, WorkerId

ERROR = PlatformError("no answer")
INLINE = _wire.Blob.of(b"x")


def answer(
    task: int,
    kind: str = _wire.RETURNED,
    *,
    file: bool = False,
    at: float = 0.0,
    attempt: int = 1,
):
    data = _wire.Blob.in_file(1, "0" * 64, 1) if file else INLINE
    return _wire.Answer(task, kind, data, attempt=attempt, finished=at)


def run_in(state: RunState, finished: float | None = None) -> Run:
    return Run(1, state, state.value, finished=finished)


class Table:
    """Drives a scheduler by hand."""

    def __init__(self, **policy):
        self.scheduler = Scheduler(Policy(**{"max_workers": 2, **policy}), jitter=lambda: 0.5)
        self.now = 0.0

    def __call__(self, event: e.Event, after: float = 0.0) -> list[e.Command]:
        self.now += after
        return self.scheduler.advance(event, self.now)

    def tick(self) -> list[e.Command]:
        deadline = self.scheduler.deadline
        assert deadline is not None
        return self(e.Tick(), max(0.0, deadline - self.now))

    def looked(self, *reports: e.Report) -> list[e.Command]:
        commands = self.tick()
        assert any(isinstance(command, e.Look) for command in commands), commands
        return self(e.Looked(reports, 1, 0.0))


def kinds(commands: list[e.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def started(**policy) -> Table:
    """A pool with task 0 in worker 1, whose run is running."""
    table = Table(**policy)
    assert kinds(table(e.Submitted(TaskId(0)))) == ["Prepare"]
    [launch] = table(e.Prepared())
    assert isinstance(launch, e.Launch)
    assert table(e.Launched(launch.worker)) == []
    assert table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING))) == []
    return table


def test_a_task_from_submit_to_finish():
    table = started()
    one = answer(0)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (one,)))
    assert commands == [e.Settle(TaskId(0), WorkerId(1), one)]
    commands = table(e.ShutdownRequested())
    assert commands == [e.WriteInbox(((WorkerId(1), (), True),), 1)]
    assert table(e.InboxWritten()) == []
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED)))
    assert commands == [e.Archive(WorkerId(1))]
    assert table(e.Archived(WorkerId(1))) == [e.Finish()]


def test_a_worker_is_reused_and_an_idle_one_is_let_go():
    table = started(idle_timeout=60.0, max_workers=1)
    table(e.Submitted(TaskId(1)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle", "WriteInbox"]
    assert commands[1] == e.WriteInbox(((WorkerId(1), ((TaskId(1), 1),), False),), 1)
    table(e.InboxWritten())
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(1),)))
    while table.now < 59.0:
        table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    while table.now < 62.0:
        commands = table.tick()
        if any(isinstance(command, e.WriteInbox) for command in commands):
            break
        table(e.Looked((), 1, 0.0))
    assert e.WriteInbox(((WorkerId(1), (), True),), 1) in commands


def test_one_container_per_task_gets_no_inbox():
    table = Table(max_tasks_per_worker=1)
    assert table(e.Submitted(TaskId(0))) == [e.Prepare(inbox=False)]
    assert table(e.Prepared()) == [e.Launch(WorkerId(1), ((TaskId(0), 1),), inbox=False)]


def test_a_large_call_is_uploaded_first():
    table = Table()
    assert table(e.Submitted(TaskId(0), upload=True)) == [e.Upload(TaskId(0))]
    assert kinds(table(e.Uploaded(TaskId(0)))) == ["Prepare"]


def test_a_call_that_cannot_be_uploaded_is_lost_alone():
    table = Table()
    table(e.Submitted(TaskId(0), upload=True))
    assert table(e.UploadFailed(TaskId(0), ERROR)) == [e.Lose(TaskId(0), None, ERROR)]


def test_a_large_answer_is_fetched_first():
    table = started()
    large = answer(0, file=True)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (large,)))
    assert commands == [e.Fetch(TaskId(0), large)]
    assert table(e.Fetched(TaskId(0), large)) == [e.Settle(TaskId(0), WorkerId(1), large)]


def test_answers_of_one_look_settle_as_they_ended():
    table = Table(max_workers=3)
    for task in range(3):
        table(e.Submitted(TaskId(task)))
    for launch in table(e.Prepared()):
        table(e.Launched(launch.worker))
    running = run_in(RunState.RUNNING)
    reports = [
        e.Report(WorkerId(n + 1), running, (answer(n, at=at),)) for n, at in enumerate([30, 10, 20])
    ]
    assert [command.task for command in table.looked(*reports)] == [1, 2, 0]


def test_a_run_that_ends_without_an_answer_is_read_again_before_its_call_is_lost():
    table = started()
    over = e.Report(WorkerId(1), run_in(RunState.FAILED))
    assert table.looked(over) == []
    assert table.looked(over) == []
    assert table.looked(over) == [e.Diagnose(WorkerId(1), (TaskId(0),))]
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    commands = table(e.Diagnosed(WorkerId(1), (TaskId(0),), verdict))
    assert commands == [e.Lose(TaskId(0), WorkerId(1), verdict), e.Archive(WorkerId(1))]


def test_an_answer_that_comes_late_still_counts():
    table = started()
    table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED), (answer(0),)))
    assert kinds(commands) == ["Settle", "Archive"]


def test_a_lost_call_is_retried_elsewhere_after_a_pause():
    table = started(max_retries=1)
    for _ in range(3):
        table.looked(e.Report(WorkerId(1), run_in(RunState.FAILED)))
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    assert table(e.Diagnosed(WorkerId(1), (TaskId(0),), verdict)) == [e.Archive(WorkerId(1))]
    table(e.Archived(WorkerId(1)))
    assert table.tick() == [e.Launch(WorkerId(2), ((TaskId(0), 2),), True)]


def test_a_run_cancelled_from_outside_is_not_retried():
    table = started(max_retries=5)
    cancelled = run_in(RunState.CANCELLED)
    for _ in range(3):
        table.looked(e.Report(WorkerId(1), cancelled))
    commands = table(
        e.Diagnosed(WorkerId(1), (TaskId(0),), e.Verdict(cancelled, "cancelled", outside=True))
    )
    assert kinds(commands) == ["Lose", "Archive"]


def test_a_crash_costs_the_call_and_not_the_worker():
    table = started()
    crash = answer(0, _wire.CRASHED)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (crash,)))
    assert commands == [e.Diagnose(WorkerId(1), (TaskId(0),), crash)]
    verdict = e.Verdict(None, "exit code 3", crashed=True)
    commands = table(e.Diagnosed(WorkerId(1), (TaskId(0),), verdict))
    assert commands == [e.Lose(TaskId(0), WorkerId(1), verdict)]
    assert table(e.Submitted(TaskId(1))) == [
        e.WriteInbox(((WorkerId(1), ((TaskId(1), 1),), False),), 1)
    ]


def test_answers_that_cannot_be_read_end_the_worker_and_lose_its_calls():
    table = started()
    running = run_in(RunState.RUNNING)
    commands = table.looked(e.Report(WorkerId(1), running, garbled=True))
    assert commands == [e.CancelRun(WorkerId(1))]
    assert table.looked(e.Report(WorkerId(1), running, garbled=True)) == []
    for _ in range(3):
        commands = table.looked(e.Report(WorkerId(1), run_in(RunState.CANCELLED), garbled=True))
    [diagnose] = commands
    assert (diagnose.tasks, diagnose.answer.kind) == ((TaskId(0),), e.CORRUPT)


def test_a_platform_that_is_gone_does_not_hold_up_the_end():
    table = started()
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    table(e.ShutdownRequested())
    commands: list[e.Command] = []
    while not commands:
        table.tick()
        commands = table(e.LookFailed(ERROR, hopeless=False))
    assert commands == [e.Finish(abandoned=(WorkerId(1),))]
    assert table.now < 30


@pytest.mark.parametrize("phase", ["uploading", "preparing", "launching", "running", "fetching"])
def test_cancel_in_each_phase(phase):
    table = Table()
    task = TaskId(0)
    table(e.Submitted(task, upload=phase == "uploading"))
    expected = ["Drop"]
    if phase in ("launching", "running", "fetching"):
        table(e.Prepared())
    if phase in ("running", "fetching"):
        table(e.Launched(WorkerId(1)))
    if phase == "fetching":
        large = answer(0, file=True)
        table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (large,)))
    if phase in ("launching", "running"):
        expected.append("CancelRun")
    assert kinds(table(e.CancelRequested(task))) == expected
    assert table(e.CancelRequested(task)) == []
    if phase == "launching":  # its run may have been started all the same
        assert kinds(table(e.Launched(WorkerId(1)))) == ["CancelRun"]


def test_a_cancel_without_effect_is_repeated():
    table = started()
    table(e.CancelRequested(TaskId(0)))
    table(e.RunCancelled(WorkerId(1)))
    seen = []
    while table.now < 35:
        for command in table.tick():
            if isinstance(command, e.Look):
                table(e.Looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 1, 0.0))
            else:
                seen.append(command)
    assert seen == [e.CancelRun(WorkerId(1))]


def test_the_platform_refuses_all_launches():
    table = Table()
    table(e.Submitted(TaskId(0)))
    table(e.Submitted(TaskId(1)))
    table(e.Prepared())
    commands = table(e.LaunchFailed(WorkerId(1), ERROR, hopeless=True))
    assert kinds(commands) == ["Break", "Lose", "Lose", "CancelRun"]
    assert table(e.LaunchFailed(WorkerId(2), ERROR, hopeless=True)) == [e.Finish()]


def test_a_refused_launch_does_not_touch_what_runs():
    table = started()
    commands = table(e.Submitted(TaskId(1)))
    assert kinds(commands) == ["Launch"]
    assert table(e.LaunchFailed(WorkerId(2), ERROR, hopeless=True)) == []
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle", "WriteInbox"]


def test_a_failed_look_fails_nothing():
    table = started()
    while table.now < 3_000:
        table.tick()
        assert table(e.LookFailed(ERROR, hopeless=False)) == []
    assert table.scheduler.tasks.known


def test_a_platform_that_is_gone_for_good_breaks_the_pool():
    table = started()
    commands: list[e.Command] = []
    while not commands:
        table.tick()
        commands = table(e.LookFailed(ERROR, hopeless=False))
    assert kinds(commands) == ["Break", "Lose", "CancelRun"]
    assert 3_600 <= table.now < 4_000


def test_a_key_that_is_refused_for_good_breaks_the_pool():
    table = started()
    commands: list[e.Command] = []
    while not commands:
        table.tick()
        commands = table(e.LookFailed(ERROR, hopeless=True))
    assert kinds(commands) == ["Break", "Lose", "CancelRun"]
    assert isinstance(commands[0].error, BrokenContainerPool)


def test_a_failed_initializer_breaks_the_pool():
    table = started()
    commands = table.looked(
        e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0, _wire.INITIALIZER),))
    )
    assert kinds(commands) == ["Break", "Lose", "CancelRun"]


def test_an_unknown_state_is_waited_for_but_not_for_ever():
    table = started()
    unknown = e.Report(WorkerId(1), Run(1, RunState.UNKNOWN, "pondering"))
    diagnosed_at = None
    while diagnosed_at is None:
        commands = table.looked(unknown)
        if any(isinstance(command, e.Diagnose) for command in commands):
            diagnosed_at = table.now
    assert 300 <= diagnosed_at < 600


def test_an_unknown_state_with_an_end_is_an_end():
    table = started()
    ended = e.Report(WorkerId(1), Run(1, RunState.UNKNOWN, "exploded", finished=1.0))
    commands = [table.looked(ended) for _ in range(3)][-1]
    assert commands[-1] == e.Diagnose(WorkerId(1), (TaskId(0),))


def test_terminate_ends_everything_at_once():
    table = started()
    table(e.Submitted(TaskId(1)))
    error = BrokenContainerPool("terminated")
    commands = table(e.TerminateRequested(error))
    assert kinds(commands) == ["Break", "Lose", "Lose", "CancelRun", "CancelRun"]
    assert table(e.Submitted(TaskId(2))) == [e.Lose(TaskId(2), None, error)]


def test_max_tasks_per_worker_is_never_exceeded():
    table = Table(max_workers=1, max_tasks_per_worker=2)
    for task in range(3):
        table(e.Submitted(TaskId(task)))
    table(e.Prepared())
    table(e.Launched(WorkerId(1)))
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert commands[1] == e.WriteInbox(((WorkerId(1), ((TaskId(1), 1),), True),), 1)
    table(e.InboxWritten())
    done = e.Report(WorkerId(1), run_in(RunState.SUCCEEDED), (answer(1),))
    assert kinds(table.looked(done)) == ["Settle", "Archive", "Launch"]


def test_looks_follow_the_budget_and_slow_down_while_nothing_happens():
    table = started()
    pauses = []
    for _ in range(40):
        before = table.now
        table.tick()
        table(e.Looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 2, 0.3))
        pauses.append(table.now - before)
    assert pauses[2] == pytest.approx(1.2, rel=0.3)
    assert pauses[-1] == pytest.approx(15.0, rel=0.1)
    rounded = [round(pause, 6) for pause in pauses[1:]]
    assert rounded == sorted(rounded)


# --- random histories --------------------------------------------------------------------------


@dataclass
class World:
    """A hostile world around one scheduler, and the checks after every event."""

    chance: random.Random
    scheduler: Scheduler
    now: float = 0.0
    pending: list[e.Command] = field(default_factory=list)
    ended: Counter = field(default_factory=Counter)
    attempts: Counter = field(default_factory=Counter)
    runs: dict = field(default_factory=dict)  # worker -> RunState of its run
    unread: dict = field(default_factory=dict)  # worker -> answers posted
    given: dict = field(default_factory=dict)  # worker -> calls it has still to do
    seen: dict = field(default_factory=dict)  # worker -> calls it was ever given
    submitted: int = 0
    finished: int = 0
    friendly: bool = False
    abandoned: set = field(default_factory=set)

    def __post_init__(self):
        self.policy = self.scheduler.policy

    def send(self, event: e.Event) -> None:
        for command in self.scheduler.advance(event, self.now):
            self.obey(command)
        self.check()

    def obey(self, command: e.Command) -> None:
        if isinstance(command, e.Settle | e.Lose | e.Drop):
            self.ended[command.task] += 1
        elif isinstance(command, e.Finish):
            self.finished += 1
            self.abandoned = set(command.abandoned)
        elif isinstance(command, e.CancelRun) and command.worker not in self.runs:
            pass  # the launch under way is recalled; it answers for itself
        elif not isinstance(command, e.Break):
            same = [type(other) for other in self.pending]
            if isinstance(command, e.Look | e.WriteInbox | e.Prepare):
                assert type(command) not in same, "invariant 4"
            self.pending.append(command)

    def check(self) -> None:
        scheduler = self.scheduler
        held = {
            name: worker.id
            for worker in scheduler.workers.values()
            if worker.phase is not WorkerPhase.ARCHIVING
            for name in worker.calls
        }
        for name, task in scheduler.tasks.known.items():
            assert (task.phase is TaskPhase.HELD) == (
                held.get(name) == task.worker and name in held
            ), "invariant 1"
            assert self.ended[name] == 0, "invariant 3"
            assert task.attempts <= self.policy.max_retries, "invariant 6"
        phases = Counter(task.phase for task in scheduler.tasks.known.values())
        assert +scheduler.tasks.count == phases, "invariant 1"
        assert set(held) <= set(scheduler.tasks.known), "invariant 1"
        assert sum(worker.open for worker in scheduler.workers.values()) <= self.policy.max_workers
        active = sum(not state.over for state in self.runs.values())
        assert active <= self.policy.max_workers, "invariant 2"
        assert max(self.ended.values(), default=0) <= 1, "invariant 3"
        assert self.finished <= 1, "invariant 3"
        if self.finished:
            assert not scheduler.tasks.known, "invariant 3"
            assert not scheduler.workers, "invariant 3"
        for worker in scheduler.workers.values():
            assert worker.taken <= (self.policy.max_tasks_per_worker or worker.taken), "invariant 5"
        if scheduler.tasks.known or scheduler.workers:
            assert self.pending or scheduler.deadline is not None, "invariant 7"

    # what the world does

    def fails(self, probability: float = 0.2) -> bool:
        return not self.friendly and self.chance.random() < probability

    def deliver(self) -> None:
        """One command under way comes to its end."""
        command = self.pending.pop(self.chance.randrange(len(self.pending)))
        failed = self.fails()
        hopeless = failed and self.chance.random() < 0.02
        match command:
            case e.Prepare():
                self.send(e.PrepareFailed(ERROR, hopeless) if failed else e.Prepared())
            case e.Upload():
                name = command.task
                self.send(e.UploadFailed(name, ERROR) if failed else e.Uploaded(name))
            case e.Launch() if failed:
                self.send(e.LaunchFailed(command.worker, ERROR, hopeless))
            case e.Launch():
                self.runs[command.worker] = RunState.QUEUED
                self.given[command.worker] = list(command.calls)
                self.seen[command.worker] = set(command.calls)
                self.unread[command.worker] = []
                self.send(e.Launched(command.worker))
            case e.WriteInbox():
                if not failed or self.chance.random() < 0.5:  # it may have taken effect
                    self.post(command)
                self.send(e.InboxFailed(ERROR, hopeless) if failed else e.InboxWritten())
            case e.Look():
                self.look(command, failed, hopeless)
            case e.Fetch():
                name, what = command.task, command.answer
                self.send(e.FetchFailed(name, ERROR) if failed else e.Fetched(name, what))
            case e.Diagnose():
                run = run_in(self.runs[command.worker])
                verdict = e.Verdict(run, "lost")
                self.send(e.Diagnosed(command.worker, command.tasks, verdict))
            case e.CancelRun():
                if not failed and not self.runs.get(command.worker, RunState.FAILED).over:
                    self.runs[command.worker] = RunState.CANCELLED
                self.send(e.RunCancelled(command.worker))
            case e.Archive():
                self.send(e.Archived(command.worker))

    def post(self, command: e.WriteInbox) -> None:
        for worker, calls, stop in command.letters:
            if self.runs[worker].over:
                continue
            for call in calls:
                if call not in self.seen[worker]:  # as a worker does
                    self.seen[worker].add(call)
                    self.given[worker].append(call)
            if stop:
                self.given[worker].append(None)

    def look(self, command: e.Look, failed: bool, hopeless: bool) -> None:
        if failed:
            self.send(e.LookFailed(ERROR, hopeless))
            return
        reports = []
        for worker, reading in command.workers:
            if self.fails(0.2):
                reports.append(e.Report(worker, None))  # the list did not show it
                continue
            state = self.runs[worker]
            if self.fails(0.02):
                reports.append(e.Report(worker, Run(1, RunState.UNKNOWN, "pondering")))
                continue
            answers = ()
            complete = not self.fails(0.1)
            wanted = reading is e.Reading.RUNNING or (reading is e.Reading.AT_END and state.over)
            if complete and wanted and not self.fails(0.1):  # else: the output comes later
                answers = tuple(self.unread[worker])
                if not self.fails(0.1):  # else: they come twice
                    self.unread[worker] = []
            garbled = complete and wanted and self.fails(0.005)
            reports.append(e.Report(worker, run_in(state), answers, complete, garbled))
        self.send(e.Looked(tuple(reports), len(reports), self.chance.choice([0.0, 0.3])))

    def work(self) -> None:
        """One run makes a step."""
        active = [worker for worker, state in self.runs.items() if not state.over]
        if not active:
            return
        worker = self.chance.choice(active)
        if self.runs[worker] is RunState.QUEUED:
            self.runs[worker] = RunState.RUNNING
            return
        if self.fails(0.05):
            self.runs[worker] = self.chance.choice(
                [RunState.FAILED, RunState.CANCELLED, RunState.SUCCEEDED]
            )
            return
        todo = self.given[worker]
        if todo and todo[0] is not None:
            name, attempt = todo.pop(0)
            kind = _wire.RETURNED
            if self.fails(0.1):
                kind = self.chance.choice([_wire.CRASHED, _wire.MEMORY, _wire.RAISED])
            elif self.fails(0.002):
                kind = _wire.INITIALIZER
            file = self.chance.random() < 0.2
            new = answer(name, kind, attempt=attempt, file=file, at=self.now)
            self.unread[worker].append(new)
        elif todo or not self.scheduler.workers[worker].inbox:
            self.runs[worker] = RunState.SUCCEEDED

    def pass_time(self) -> None:
        deadline = self.scheduler.deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
        self.send(e.Tick())

    def submit(self) -> None:
        name = TaskId(self.submitted)
        self.submitted += 1
        self.send(e.Submitted(name, upload=self.chance.random() < 0.2))

    def cancel(self) -> None:
        if self.submitted:
            self.send(e.CancelRequested(TaskId(self.chance.randrange(self.submitted))))


def history(seed: int) -> Counter:
    chance = random.Random(seed)
    policy = Policy(
        max_workers=chance.choice([1, 2, 3, 5]),
        max_tasks_per_worker=chance.choice([None, 1, 1, 2, 3]),
        idle_timeout=chance.choice([0.0, 1.0, 60.0]),
        max_retries=chance.choice([0, 1, 3]),
    )
    world = World(chance, Scheduler(policy, jitter=chance.random))
    steps = [world.deliver, world.work, world.pass_time, world.submit, world.cancel]
    weights = [10, 10, 3, chance.choice([1, 3, 6]), chance.choice([0, 0.2, 1])]
    for _ in range(chance.choice([20, 100, 300])):
        [step] = chance.choices(steps, weights)
        if step != world.deliver or world.pending:
            step()
    if chance.random() < 0.1:
        world.send(e.TerminateRequested(BrokenContainerPool("terminated")))
    else:
        world.send(e.ShutdownRequested())
    world.friendly = chance.random() < 0.8
    for _ in range(20_000):
        if world.finished:
            break
        if world.pending:
            world.deliver()
        else:
            world.pass_time()
        world.work()
    assert world.finished == 1, f"seed {seed}: it hangs"
    # What was under way for a task that was then cancelled comes to nothing; all else is over.
    harmless = e.Upload | e.Fetch | e.Diagnose | e.CancelRun
    assert all(isinstance(command, harmless) for command in world.pending), f"seed {seed}"
    left = {worker for worker, state in world.runs.items() if not state.over}
    assert left <= world.abandoned, f"seed {seed}: a run is left"
    assert not (world.friendly and world.abandoned), f"seed {seed}: given up too soon"
    assert set(world.ended) == set(range(world.submitted)), f"seed {seed}: a task is lost"
    return world.ended


HISTORIES = int(os.environ.get("CIVIS_FUTURES_HISTORIES", "500"))


@pytest.mark.parametrize("batch", range(10))
def test_random_histories(batch):
    """Seeds are fixed, so that a failure names the one to run again: `history(SEED)`."""
    for seed in range(batch * HISTORIES // 10, (batch + 1) * HISTORIES // 10):
        try:
            history(seed)
        except AssertionError as error:
            error.add_note(f"history({seed})")
            raise
