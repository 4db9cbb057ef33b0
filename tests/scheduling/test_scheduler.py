"""The scheduler alone: tables of (events, commands), and random histories with its invariants.

Time and chance are inputs here. The world of the histories is hostile: every request may fail,
every run may end at any moment in any way, answers come twice, late or not at all.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from civis_futures import BrokenContainerPool, ContainerHoursError, _wire
from civis_futures._exceptions import PlatformError, Recalled
from civis_futures._scheduling import events as e
from civis_futures._scheduling.balance import movable
from civis_futures._scheduling.looks import Observation, took
from civis_futures._scheduling.pacing import (
    LOOK_STRETCH,
    QUICK_LOOK,
    SAVED_LOOKS,
    SHORTEST_LOOK,
    Mean,
    Shares,
)
from civis_futures._scheduling.scheduler import Scheduler
from civis_futures._scheduling.state import Policy, TaskPhase, Worker, WorkerPhase
from civis_futures._types import (
    PLAIN_TERMS,
    Inherited,
    Resources,
    Run,
    RunState,
    TaskId,
    Terms,
    WorkerId,
)

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


# What the scheduler is told of commands, for tables; of a command only what it looks at.

#: Events that the manager hands over at once, when several have come.
TOGETHER = e.Submitted | e.CancelRequested | e.Done
PREPARED, WRITTEN = e.Done(e.Prepare()), e.Done(e.WriteInbox((), 0))


def launched(worker: WorkerId) -> e.Event:
    return e.Done(e.Launch(worker, ()))


def launch_failed(worker: WorkerId, *how, **more) -> e.Event:
    return e.Failed(e.Launch(worker, ()), *how, **more)


def looked(*what) -> e.Event:
    return e.Done(e.Look(()), e.Looked(*what))


def look_failed(*how, **more) -> e.Event:
    return e.Failed(e.Look(()), *how, **more)


def diagnosed(worker: WorkerId, calls, verdict: e.Verdict, at: int = 0) -> e.Event:
    return e.Done(e.Diagnose(worker, calls), e.Diagnosis(((at, verdict),)))


def archived(worker: WorkerId) -> e.Event:
    return e.Done(e.Archive(worker))


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
        reports = tuple(replace(report, read=True) for report in reports)
        return self(looked(reports, 1, 0.0))

    def until(self, kind: str, *reports: e.Report, within: float = 60.0) -> list[e.Command]:
        """Time passes, looks bring these reports, all else works, until there is such a command."""
        end, commands = self.now + within, []
        while kind not in kinds(commands):
            assert self.now < end, f"no {kind}"
            commands = self.tick()
            for command in commands:  # and what follows from these
                if isinstance(command, e.WriteInbox):
                    commands += self(WRITTEN)
                elif isinstance(command, e.Launch):
                    commands += self(launched(command.worker))
                elif isinstance(command, e.Look):
                    seen = tuple(
                        replace(
                            report, read=True, asked_directly=report.worker in command.ask_directly
                        )
                        for report in reports
                    )
                    commands += self(looked(seen, 1, 0.0))
        return commands

    def submit(self, *tasks: int, **terms) -> list[e.Command]:
        commands = []
        for task in tasks:
            commands += self(e.Submitted(TaskId(task), terms=Terms(**terms)))
        return commands


def writes(commands: list[e.Command]) -> list[e.WriteInbox]:
    return [command for command in commands if isinstance(command, e.WriteInbox)]


def kinds(commands: list[e.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def started(tasks: int = 1, max_retries: int = 0, terms=None, **policy) -> Table:
    """A pool with task 0 (or so many) in worker 1, whose run is running."""
    table = Table(**policy)
    terms = {"max_retries": max_retries, **(terms or {})}
    assert kinds(table.submit(*range(tasks), **terms)) == ["Prepare"]
    [launch] = table(PREPARED)
    assert isinstance(launch, e.Launch)
    assert table(launched(launch.worker)) == []
    assert table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING))) == []
    table.scheduler.fleet.ramp.proven = True
    return table


def test_a_task_from_submit_to_finish():
    table = started()
    one = answer(0)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (one,)))
    assert commands == [e.Settle(TaskId(0), WorkerId(1), one)]
    commands = table(e.ShutdownRequested())
    assert commands == [e.WriteInbox((e.LetterContent(WorkerId(1), stop=True),), 1)]
    assert table(WRITTEN) == []
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED)))
    assert commands == [e.Archive(WorkerId(1))]
    assert table(archived(WorkerId(1))) == [e.Finish()]


def test_of_what_waits_the_highest_priority_is_first():
    """And of one priority the oldest."""
    table = started(max_workers=1, max_tasks_per_worker=1)
    for task, priority in ((1, 0), (2, -1), (3, 2.5), (4, 0), (5, 2.5)):
        table.submit(task, priority=priority)
    given = []
    for number in range(5):
        [running] = table.scheduler.fleet.workers.values()
        [(task, _)] = running.calls
        report = e.Report(running.id, run_in(RunState.SUCCEEDED), (answer(task),))
        commands = table.until("Archive", report)
        commands += table(archived(running.id))
        while "Launch" not in kinds(commands):
            commands = table.tick()
        [launch] = [each for each in commands if isinstance(each, e.Launch)]
        given += [name for name, _ in launch.calls]
        table(launched(launch.worker))
        assert number < 5
    assert given == [3, 5, 1, 4, 2]


def test_a_worker_is_reused_and_an_idle_one_is_let_go():
    table = started(idle_timeout=60.0, max_workers=1)
    table(e.Submitted(TaskId(1)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle", "WriteInbox"]
    assert commands[1] == e.WriteInbox((e.LetterContent(WorkerId(1), ((TaskId(1), 1),)),), 1)
    table(WRITTEN)
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(1),)))
    while table.now < 59.0:
        table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    while table.now < 62.0:
        commands = table.tick()
        if any(isinstance(command, e.WriteInbox) for command in commands):
            break
        table(looked((), 1, 0.0))
    assert e.WriteInbox((e.LetterContent(WorkerId(1), stop=True),), 1) in commands


def test_calls_fill_a_container_that_runs_several_before_another_one_is_started():
    table = Table(max_workers=6, worker_processes=4)
    table.scheduler.fleet.ramp.proven = True
    table.submit(0)
    [launch] = table(PREPARED)
    assert (launch.processes, launch.calls) == (4, ((TaskId(0), 1),))
    assert table.submit(1, 2) == []  # there will be room
    [write] = table(launched(launch.worker))
    assert write.letters[0].calls == ((TaskId(1), 1), (TaskId(2), 1))
    assert kinds(table(WRITTEN)) == []
    assert kinds(table.submit(3)) == ["WriteInbox"]
    [launch] = table.submit(4)
    assert launch.processes == 2  # six calls at once, and no more
    table(launched(launch.worker))
    assert "Launch" not in kinds(table.submit(5, 6, 7))


def test_each_call_that_runs_has_its_own_time_limit():
    table = started(2, terms={"timeout": 10.0}, max_workers=2, worker_processes=2)
    frozen = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    lost = []
    while len(lost) < 2 and table.now < 500:
        commands = table.until("Look", frozen)
        lost += [each.task for each in commands if isinstance(each, e.Lose)]
    assert lost == [0, 1]


def test_calls_of_a_container_that_dies_are_lost_if_they_had_begun():
    table = started(4, max_workers=2, worker_processes=2)
    worker = table.scheduler.fleet.workers[WorkerId(1)]
    over = e.Report(WorkerId(1), run_in(RunState.FAILED))
    [diagnose] = [c for c in table.until("Diagnose", over) if isinstance(c, e.Diagnose)]
    assert len(diagnose.calls) == len(worker.calls) == 4
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    commands = table(e.Done(diagnose, e.Diagnosis(((0, verdict), (2, verdict)))))
    assert [each.task for each in commands if isinstance(each, e.Lose)] == [0, 2]
    assert [each.task for each in commands if isinstance(each, e.Again)] == [1, 3]


def test_calls_of_a_container_that_ended_for_want_of_calls_are_not_lost():
    """It had not heard of them: this process was asleep for long."""
    table = started(1)
    verdict = e.Verdict(run_in(RunState.SUCCEEDED), "no sign of life")
    commands = table(diagnosed(WorkerId(1), ((TaskId(0), 1),), verdict, at=-1))
    assert [each.task for each in commands if isinstance(each, e.Again)] == [0]
    assert not [each for each in commands if isinstance(each, e.Lose)]


def test_what_may_have_begun_is_not_run_again_when_its_container_ends_for_another_call():
    table = started(4, max_workers=2, worker_processes=2)
    table(e.CancelRequested(TaskId(0)))
    table(WRITTEN)
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    table.until("CancelRun", running)
    over = run_in(RunState.CANCELLED)
    commands = table.until("Diagnose", e.Report(WorkerId(1), over))
    [asked] = [command for command in commands if isinstance(command, e.Diagnose)]
    calls = tuple((TaskId(number), 1) for number in range(4))
    assert asked == e.Diagnose(WorkerId(1), calls[1:], gone=calls[:1])
    # 2 has begun if 0 has ended all the same.
    cancelled = e.Verdict(over, "cancelled", outside=True)
    commands = table(e.Done(asked, e.Diagnosis(((0, cancelled), (1, cancelled)))))
    assert [each.task for each in commands if isinstance(each, e.Lose)] == [1, 2]
    assert [each.task for each in commands if isinstance(each, e.Again)] == [3]


def test_one_container_per_task_ends_after_it():
    table = Table(max_tasks_per_worker=1)
    assert table(e.Submitted(TaskId(0))) == [e.Prepare()]
    assert table(PREPARED) == [e.Launch(WorkerId(1), ((TaskId(0), 1),), one_shot=True)]


def test_a_large_call_is_uploaded_first():
    table = Table()
    assert table(e.Submitted(TaskId(0), upload=True)) == [e.Upload(TaskId(0))]
    assert kinds(table(e.Done(e.Upload(TaskId(0))))) == ["Prepare"]


def test_a_call_that_cannot_be_uploaded_is_lost_alone():
    table = Table()
    table(e.Submitted(TaskId(0), upload=True))
    assert table(e.Failed(e.Upload(TaskId(0)), ERROR)) == [e.Lose(TaskId(0), None, ERROR)]


def test_a_large_answer_is_fetched_first():
    table = started()
    large = answer(0, file=True)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (large,)))
    assert commands == [e.Fetch(TaskId(0), large)]
    assert table(e.Done(e.Fetch(TaskId(0), large))) == [e.Settle(TaskId(0), WorkerId(1), large)]


def test_answers_of_one_look_settle_as_they_ended():
    table = Table(max_workers=3)
    table.scheduler.fleet.ramp.proven = True
    table.submit(0, 1, 2)
    for launch in table(PREPARED):
        table(launched(launch.worker))
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
    assert table.looked(over) == [e.Diagnose(WorkerId(1), ((TaskId(0), 1),))]
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    commands = table(diagnosed(WorkerId(1), ((TaskId(0), 1),), verdict))
    assert commands == [e.Lose(TaskId(0), WorkerId(1), verdict), e.Archive(WorkerId(1))]


def test_an_answer_that_comes_late_still_counts():
    table = started()
    table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.SUCCEEDED), (answer(0),)))
    assert kinds(commands) == ["Settle", "Archive"]


def test_a_run_that_succeeded_may_answer_late_and_frees_its_place():
    table = started(max_workers=1, max_tasks_per_worker=1)
    table.submit(1)
    over = e.Report(WorkerId(1), run_in(RunState.SUCCEEDED))
    since = table.now
    assert e.Launch(WorkerId(2), ((TaskId(1), 1),), one_shot=True) in table.looked(over)
    table(launched(WorkerId(2)))
    commands = table.until("Diagnose", over)
    assert 30 < table.now - since < 60
    assert commands[-1] == e.Diagnose(WorkerId(1), ((TaskId(0), 1),))


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED])
def test_a_worker_whose_answers_cannot_be_read_is_given_up_after_some_time(state):
    table = started()
    since = table.now
    unread = e.Report(WorkerId(1), run_in(state), complete=False)
    commands = table.until("CancelRun", unread, within=3600.0)
    assert 600 <= table.now - since < 1200
    unread = e.Report(WorkerId(1), run_in(RunState.FAILED), complete=False)
    if "Diagnose" not in kinds(commands):
        commands = table.until("Diagnose", unread)
    assert commands[-1].answer.kind == e.CORRUPT


def test_a_lost_call_is_retried_elsewhere_after_a_pause():
    table = started(max_retries=1)
    for _ in range(3):
        table.looked(e.Report(WorkerId(1), run_in(RunState.FAILED)))
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    again = e.Again(TaskId(0), WorkerId(1), verdict)
    commands = table(diagnosed(WorkerId(1), ((TaskId(0), 1),), verdict))
    assert commands == [again, e.Archive(WorkerId(1))]
    table(archived(WorkerId(1)))
    assert table.tick() == [e.Launch(WorkerId(2), ((TaskId(0), 2),))]


def test_a_run_cancelled_from_outside_is_not_retried():
    table = started(max_retries=5)
    cancelled = run_in(RunState.CANCELLED)
    for _ in range(3):
        table.looked(e.Report(WorkerId(1), cancelled))
    commands = table(
        diagnosed(WorkerId(1), ((TaskId(0), 1),), e.Verdict(cancelled, "cancelled", outside=True))
    )
    assert kinds(commands) == ["Lose", "Archive"]


def test_a_crash_costs_the_call_and_not_the_worker():
    table = started()
    crash = answer(0, _wire.CRASHED)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (crash,)))
    assert commands == [e.Diagnose(WorkerId(1), ((TaskId(0), 1),), crash)]
    verdict = e.Verdict(None, "exit code 3", crashed=True)
    commands = table(diagnosed(WorkerId(1), ((TaskId(0), 1),), verdict))
    assert commands == [e.Lose(TaskId(0), WorkerId(1), verdict)]
    assert table(e.Submitted(TaskId(1))) == [
        e.WriteInbox((e.LetterContent(WorkerId(1), ((TaskId(1), 1),)),), 1)
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
    assert (diagnose.calls, diagnose.answer.kind) == (((TaskId(0), 1),), e.CORRUPT)


def test_a_platform_that_is_gone_does_not_hold_up_the_end():
    table = started()
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    table(e.ShutdownRequested())
    commands: list[e.Command] = []
    while not commands:
        table.tick()
        commands = table(look_failed(ERROR, hopeless=False))
    reason = f"runs cannot be watched: {ERROR}"
    assert commands == [e.Finish(abandoned=(WorkerId(1),), reason=reason)]
    assert 75 <= table.now < 150


@pytest.mark.parametrize("phase", ["uploading", "preparing", "launching", "running", "fetching"])
def test_cancel_in_each_phase(phase):
    table = Table()
    task = TaskId(0)
    table(e.Submitted(task, upload=phase == "uploading"))
    expected = ["Drop"]
    if phase in ("launching", "running", "fetching"):
        table(PREPARED)
    if phase in ("running", "fetching"):
        table(launched(WorkerId(1)))
    if phase == "fetching":
        large = answer(0, file=True)
        table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (large,)))
    if phase in ("launching", "running"):
        expected.append("CancelRun")
    assert kinds(table(e.CancelRequested(task))) == expected
    assert table(e.CancelRequested(task)) == []
    if phase == "launching":  # its run may have been started all the same
        assert kinds(table(launched(WorkerId(1)))) == ["CancelRun"]


def test_a_cancel_without_effect_is_repeated():
    table = started()
    table(e.CancelRequested(TaskId(0)))
    table(e.Done(e.CancelRun(WorkerId(1))))
    seen = []
    while table.now < 35:
        for command in table.tick():
            if isinstance(command, e.Look):
                table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 1, 0.0))
            else:
                seen.append(command)
    assert seen == [e.CancelRun(WorkerId(1))]


def test_the_platform_refuses_all_launches():
    table = Table()
    table(e.Submitted(TaskId(0)))
    table(e.Submitted(TaskId(1)))
    table(PREPARED)
    commands = table(launch_failed(WorkerId(1), ERROR, hopeless=True))
    assert kinds(commands) == ["Break", "Lose", "Lose", "CancelRun"]
    assert table(launch_failed(WorkerId(2), ERROR, hopeless=True)) == [e.Finish()]


def test_a_refused_launch_does_not_touch_what_runs():
    table = started()
    commands = table(e.Submitted(TaskId(1)))
    assert kinds(commands) == ["Launch"]
    assert table(launch_failed(WorkerId(2), ERROR, hopeless=True)) == [e.Again(TaskId(1))]
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle", "WriteInbox"]


def test_a_failed_look_fails_nothing():
    table = started()
    while table.now < 3_000:
        table.tick()
        assert table(look_failed(ERROR, hopeless=False)) == []
    assert table.scheduler.tasks.known


@pytest.mark.parametrize("refused", [False, True])
def test_a_platform_that_is_gone_for_good_or_refuses_the_key_breaks_the_pool(refused):
    table = started()
    commands: list[e.Command] = []
    while not commands:
        table.tick()
        commands = table(look_failed(ERROR, hopeless=refused))
    assert kinds(commands) == ["Break", "Lose", "CancelRun"]
    assert isinstance(commands[0].error, BrokenContainerPool)
    assert refused or 3_600 <= table.now < 4_000


def unread(state, hopeless):
    report = e.Report(WorkerId(1), run_in(state), complete=False)
    return replace(report, error=ERROR, hopeless=hopeless)


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.SUCCEEDED])
def test_answers_that_are_refused_for_good_break_the_pool(state):
    table = started(2, max_workers=1)
    since = table.now
    commands = table.until("Break", unread(state, hopeless=True), within=60.0)
    [broken] = [command.error for command in commands if isinstance(command, e.Break)]
    assert str(broken) == f"answers cannot be read: {ERROR}"
    assert broken.__cause__ is ERROR
    assert table.now - since > 5, "what is refused once may not be refused again"


def test_answers_of_one_worker_that_are_refused_cost_its_calls_alone():
    table = started()
    [launch] = table.submit(1)
    table(launched(launch.worker))
    other = e.Report(WorkerId(2), run_in(RunState.RUNNING))
    commands = table.until("CancelRun", unread(RunState.RUNNING, hopeless=True), other)
    assert e.CancelRun(WorkerId(1)) in commands
    over = unread(RunState.CANCELLED, hopeless=True)
    [diagnose] = [c for c in table.until("Diagnose", over, other) if isinstance(c, e.Diagnose)]
    assert str(ERROR) in diagnose.answer.text


@pytest.mark.parametrize("hopeless", [True, False])
def test_runs_that_cannot_be_cancelled_break_the_pool(hopeless):
    table = started(max_workers=1)
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    cancel = e.CancelRun(WorkerId(1))
    commands = table(e.CancelRequested(TaskId(0)))
    table(e.Submitted(TaskId(1)))
    while "Break" not in kinds(commands):
        assert cancel in commands
        commands = table(e.Failed(cancel, ERROR, hopeless))
        if "Break" not in kinds(commands):
            assert (str(ERROR)) in [error for _, error in table.scheduler.standing(0).troubles]
            commands = table.until("CancelRun", running, within=120.0)
    assert e.Lose(TaskId(1), None, commands[0].error) in commands
    assert (table.now < 60) if hopeless else (3_600 <= table.now < 4_000)
    # All that is left is its end, which is not waited for any longer.
    while "Finish" not in kinds(commands):
        commands = table.until("CancelRun", running, within=120.0)
        commands = table(e.Failed(cancel, ERROR, hopeless))
    reason = f"runs cannot be cancelled: {ERROR}"
    assert commands == [e.Finish((WorkerId(1),), (), reason)]


def test_a_wave_of_refusals_counts_as_one():
    table = Table(max_workers=6)
    table.submit(*range(6))
    launches = [c for c in table(PREPARED) if isinstance(c, e.Launch)]
    for launch in launches:
        table(launched(launch.worker))
    for launch in launches:
        table(e.CancelRequested(launch.calls[0][0]), after=0.1)
    for launch in launches:
        commands = table(e.Failed(e.CancelRun(launch.worker), ERROR, hopeless=True))
        assert "Break" not in kinds(commands)
    assert table.scheduler.fleet.cancelling.failures == 1


def test_calls_that_cannot_be_sent_for_long_break_the_pool_though_runs_can_be_watched():
    table = started()
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True)
    commands: list[e.Command] = []
    while "Break" not in kinds(commands):
        commands = table.tick()
        for command in list(commands):
            if isinstance(command, e.Look):
                commands += table(looked((running,), 1, 0.3))
            elif isinstance(command, e.WriteInbox):
                commands += table(e.Failed(command, ERROR, hopeless=True))
    assert table.now < 3_000, "a lease is 3,600 s: it is written four times in one"


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
    assert commands[-1] == e.Diagnose(WorkerId(1), ((TaskId(0), 1),))


def test_terminate_ends_everything_at_once():
    table = started()
    table(e.Submitted(TaskId(1)))
    error = BrokenContainerPool("terminated")
    commands = table(e.TerminateRequested(error))
    assert kinds(commands) == ["Break", "Lose", "Lose", "CancelRun", "CancelRun"]
    assert table(e.Submitted(TaskId(2))) == [e.Lose(TaskId(2), None, error)]


def test_max_tasks_per_worker_is_never_exceeded():
    table = Table(max_workers=1, max_tasks_per_worker=2)
    table.submit(0, 1, 2)
    calls = ((TaskId(0), 1), (TaskId(1), 1))
    assert table(PREPARED) == [e.Launch(WorkerId(1), calls, one_shot=True)]
    table(launched(WorkerId(1)))
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle"]
    done = e.Report(WorkerId(1), run_in(RunState.SUCCEEDED), (answer(1),))
    assert kinds(table.looked(done)) == ["Settle", "Archive", "Launch"]


# --- shares --------------------------------------------------------------------------------------


def shared(tasks: int, workers: int = 2, **policy) -> tuple[Table, list[e.Launch]]:
    table = Table(max_workers=workers, **policy)
    table.scheduler.fleet.ramp.proven = True
    table.submit(*range(tasks))
    launches = [c for c in table(PREPARED) if isinstance(c, e.Launch)]
    for launch in launches:
        table(launched(launch.worker))
    return table, launches


def running(table: Table, launches, *answers: list) -> list[e.Command]:
    reports = [
        e.Report(launch.worker, run_in(RunState.RUNNING), tuple(given))
        for launch, given in itertools.zip_longest(launches, answers, fillvalue=())
    ]
    return table.looked(*reports)


def test_each_worker_gets_its_share_when_nobody_knows_how_long_calls_take():
    _, launches = shared(10, workers=3)
    assert [len(launch.calls) for launch in launches] == [4, 3, 3]
    _, launches = shared(3, workers=8)
    assert [len(launch.calls) for launch in launches] == [1, 1, 1]
    _, launches = shared(1000, workers=2)
    assert [len(launch.calls) for launch in launches] == [100, 100]


def test_a_worker_gets_what_keeps_it_busy_and_no_more():
    table, launches = shared(1000, workers=1)
    done = [timed(task, 0.01) for task in range(100)]
    commands = running(table, launches, done)
    [letter] = commands[-1].letters
    horizon = table.scheduler.fleet.horizon()
    assert len(letter.calls) == pytest.approx(horizon / 0.01, abs=2)
    table(WRITTEN)
    few = [timed(task, 0.01) for task in range(100, 110)]
    assert kinds(running(table, launches, few)) == ["Settle"] * 10  # it has enough to do


def test_letters_are_no_longer_than_the_inbox_allows():
    table = Table(max_workers=1)
    for task in range(10):
        table(e.Submitted(TaskId(task), size=30_000))
    [launch] = table(PREPARED)
    assert len(launch.calls) == 2
    table = Table(max_workers=1)
    table(e.Submitted(TaskId(0), size=500_000))  # one is always allowed
    assert len(table(PREPARED)[0].calls) == 1


def timed(task: int, seconds: float, attempt: int = 1):
    return replace(answer(task, attempt=attempt, at=seconds), started=0.0)


def test_an_idle_worker_takes_over_what_a_busy_one_has_not_begun():
    table, launches = shared(8)
    running(table, launches)
    first, second = launches
    assert [task for task, _ in first.calls] == [0, 2, 4, 6]  # the oldest begin first
    commands = running(table, launches, [], [timed(task, 5.0) for task in (1, 3, 5, 7)])
    [letter] = commands[-1].letters
    assert letter == e.LetterContent(first.worker, revoked=((TaskId(4), 1), (TaskId(6), 1)))
    table(WRITTEN)
    assert kinds(running(table, launches)) == []  # not before the worker has said so
    given_back = [answer(task, _wire.REVOKED) for task in (4, 6)]
    commands = running(table, launches, given_back)
    assert commands[:2] == [e.Again(TaskId(4)), e.Again(TaskId(6))]
    [letter] = commands[-1].letters
    assert letter == e.LetterContent(
        second.worker, ((TaskId(4), 2),)
    )  # 5 s of work, and 3 can wait


def test_what_a_worker_begins_before_it_hears_stays_with_it():
    table, launches = shared(4)
    running(table, launches)
    running(table, launches, [], [timed(task, 5.0) for task in (1, 3)])
    table(WRITTEN)
    commands = running(table, launches, [timed(0, 5.0), timed(2, 5.0)])
    assert kinds(commands) == ["Settle", "Settle"]


def test_short_calls_are_not_worth_taking_over():
    table, launches = shared(8)
    running(table, launches)
    commands = running(table, launches, [], [timed(task, 0.001) for task in (1, 3, 5, 7)])
    assert kinds(commands) == ["Settle"] * 4


def test_calls_of_a_container_that_does_not_start_are_taken_over():
    table, launches = shared(6)
    queued = e.Report(launches[0].worker, run_in(RunState.QUEUED))
    done = tuple(timed(task, 0.01) for task in (1, 3, 5))
    alive = e.Report(launches[1].worker, run_in(RunState.RUNNING))
    table.looked(queued, replace(alive, answers=done))
    commands = table.until("Again", queued, alive, within=10)
    taken = [command.task for command in commands if isinstance(command, e.Again)]
    assert taken == [0, 2, 4]


def test_calls_move_to_a_busy_worker_before_it_has_run_out():
    """So it need not wait for them; the oldest first, and no more than it has room for."""
    table, launches = shared(20, max_tasks_per_worker=None)
    queued = e.Report(launches[1].worker, run_in(RunState.QUEUED))
    alive = e.Report(launches[0].worker, run_in(RunState.RUNNING))
    done = tuple(timed(task, 0.1) for task, _ in launches[0].calls[:8])
    table.looked(queued, alive)
    commands = table.looked(queued, replace(alive, answers=done))
    if not writes(commands):
        commands = table.until("WriteInbox", queued, alive, within=5)
    [letter] = [letter for letter in writes(commands)[0].letters if letter.worker == queued.worker]
    assert letter.revoked == tuple(launches[1].calls[: len(letter.revoked)])
    assert len(letter.revoked) >= 2


def test_a_full_platform_is_asked_for_a_few_more_containers_every_five_seconds():
    table = Table(max_workers=26)
    table.submit(*range(400))
    launches = table(PREPARED)
    for launch in launches:
        table(launched(launch.worker))
    queued = e.Report(launches[1].worker, run_in(RunState.QUEUED))
    alive = e.Report(launches[0].worker, run_in(RunState.RUNNING))
    for _ in range(3):
        table.looked(queued, alive)
    table.scheduler.fleet.ramp.proven = True
    at = []
    while len(at) < 3:
        commands = table.until("Launch", queued, alive, within=20)
        assert kinds(commands).count("Launch") == 8
        at.append(table.now)
    assert at == pytest.approx([5.0, 10.0, 15.0])


def test_a_launch_that_takes_long_is_recalled_for_an_idle_worker():
    table = Table(max_workers=2)
    table.submit(0, 1)
    first, second = table(PREPARED)
    table(launched(first.worker))
    alive = e.Report(first.worker, run_in(RunState.RUNNING))
    table.looked(replace(alive, answers=(timed(0, 0.01),)))
    commands = table.until("Recall", alive, within=60)
    assert table.now > 30  # a launch may take some time
    assert e.Recall(second.worker) in commands
    commands = table(launch_failed(second.worker, Recalled(), False))
    assert commands[0] == e.Again(TaskId(1))
    [letter] = commands[-1].letters
    assert letter == e.LetterContent(first.worker, ((TaskId(1), 2),))
    assert "Launch" not in kinds(commands)


def test_a_launch_that_was_recalled_too_late_gives_its_calls_back():
    table = Table(max_workers=2)
    table.submit(0, 1)
    first, second = table(PREPARED)
    table(launched(first.worker))
    alive = e.Report(first.worker, run_in(RunState.RUNNING))
    table.looked(replace(alive, answers=(timed(0, 0.01),)))
    table.until("Recall", alive, within=60)
    assert kinds(table(launched(second.worker))) == ["WriteInbox"]
    table(WRITTEN)
    queued = e.Report(second.worker, run_in(RunState.QUEUED))
    commands = table.until("Again", alive, queued, within=20)
    assert e.Again(TaskId(1)) in commands


def test_an_idle_container_makes_room_for_a_larger_one_that_waits():
    table, launches = shared(1)
    alive = e.Report(launches[0].worker, run_in(RunState.RUNNING))
    table.looked(replace(alive, answers=(timed(0, 1.0),)))
    [launch] = table.submit(1, resources=Resources(1, 9000, 1))
    table(launched(launch.worker))
    queued = e.Report(launch.worker, run_in(RunState.QUEUED))
    commands = table.until("WriteInbox", alive, queued, within=5)
    [write] = [command for command in commands if isinstance(command, e.WriteInbox)]
    assert write.letters == (e.LetterContent(launches[0].worker, stop=True),)


def test_idle_containers_make_room_for_other_pools():
    table, launches = shared(1)
    alive = e.Report(launches[0].worker, run_in(RunState.RUNNING))
    commands = table.looked(replace(alive, answers=(timed(0, 1.0),)))
    assert kinds(commands) == ["Settle"]
    [write] = table(e.OthersWait(table.now))
    assert write.letters == (e.LetterContent(launches[0].worker, stop=True),)


def test_an_inbox_that_others_may_have_overwritten_is_written_again():
    table, launches = shared(3)
    running(table, launches)
    assert "WriteInbox" in kinds(table(e.InboxInDoubt()))


def test_cancelling_one_of_many_calls_of_a_worker_ends_that_one_alone():
    table, launches = shared(8)
    running(table, launches)
    for task in (0, 4):  # one that may be running, one that has not begun
        commands = table(e.CancelRequested(TaskId(task)))
        assert kinds(commands)[0] == "Drop"
        assert "CancelRun" not in kinds(commands)
    [write] = table(WRITTEN)
    [letter] = write.letters
    assert letter.ended == ((TaskId(0), 1), (TaskId(4), 1))
    assert letter.calls == ()


def test_a_worker_that_does_not_end_a_cancelled_call_is_cancelled():
    table, launches = shared(8)
    running(table, launches)
    table(e.CancelRequested(TaskId(0)))
    table(WRITTEN)
    table.until("CancelRun", *[e.Report(x.worker, run_in(RunState.RUNNING)) for x in launches])
    assert table.now > 5


# --- terms ---------------------------------------------------------------------------------------


def test_a_container_without_the_memory_is_not_given_the_call():
    table = Table(max_workers=3)
    table.scheduler.fleet.ramp.proven = True
    small, large = Resources(1000, 2048, 1), Resources(1000, 9000, 1)
    table.submit(0, 1, resources=small)
    table.submit(2, resources=large)
    launches = table(PREPARED)
    assert [launch.resources for launch in launches] == [small, small, large]
    assert [launch.calls[0][0] for launch in launches] == [0, 1, 2]


def test_a_container_that_fits_nobody_makes_room():
    table = started(max_workers=1)
    table.submit(1, resources=Resources(1, 9000, 1))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert kinds(commands) == ["Settle", "WriteInbox"]
    assert commands[1].letters == (e.LetterContent(WorkerId(1), stop=True),)


def test_more_memory_after_a_container_ran_out_of_it():
    terms = {"memory_growth": 2.0, "max_memory": 5000.0, "resources": Resources(1000, 2000, 1)}
    table = started(terms=terms, max_workers=5)
    verdict = e.Verdict(run_in(RunState.FAILED), "out of memory", memory=True)
    sizes = []
    for attempt in (1, 2, 3):
        kill = answer(0, _wire.MEMORY, attempt=attempt)
        worker = WorkerId(attempt)
        table.looked(e.Report(worker, run_in(RunState.RUNNING), (kill,)))
        commands = table(diagnosed(worker, ((TaskId(0), attempt),), verdict))
        if attempt == 3:
            assert kinds(commands) == ["Lose"]  # there is no more to be had
            return
        commands = table.until("Launch", e.Report(worker, run_in(RunState.RUNNING)))
        [launch] = [command for command in commands if isinstance(command, e.Launch)]
        sizes.append(launch.resources.memory)
    assert sizes == [4000, 5000]


def test_the_user_has_a_word_on_which_exceptions_are_tried_again():
    table = started(max_retries=1, terms={"judged": True})
    bad = answer(0, _wire.RAISED)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (bad,)))
    assert commands == [e.Judge(TaskId(0), WorkerId(1), bad)]
    commands = table(
        e.Done(e.Judge(TaskId(0), WorkerId(1), bad), e.Judgement(True, "ValueError: no"))
    )
    assert commands == [e.Again(TaskId(0), WorkerId(1), bad, "ValueError: no")]
    table.until("WriteInbox", e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    again = answer(0, _wire.RAISED, attempt=2)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (again,)))
    assert commands == [e.Settle(TaskId(0), WorkerId(1), again)]  # no attempt is left to ask for


@pytest.mark.parametrize("phase", ["uploading", "preparing", "queued"])
def test_a_call_that_has_not_begun_in_time_never_begins(phase):
    table = Table()
    terms = Terms(queue_timeout=5.0)
    table(e.Submitted(TaskId(0), upload=phase == "uploading", terms=terms))
    if phase == "queued":
        table(PREPARED)
        table(launched(WorkerId(1)))
    commands = table.until("Lose", e.Report(WorkerId(1), run_in(RunState.QUEUED)))
    assert table.now == pytest.approx(5.0, abs=0.5)
    [lose] = [command for command in commands if isinstance(command, e.Lose)]
    assert lose.cause.timed_out


@pytest.mark.parametrize("begun", [False, True])
def test_what_cannot_be_taken_back_is_told_as_what_it_was(begun):
    table = Table(max_tasks_per_worker=1)
    table.submit(0, queue_timeout=5.0)
    table(PREPARED)
    table(launched(WorkerId(1)))
    queued = e.Report(WorkerId(1), run_in(RunState.QUEUED))
    commands = table.until("CancelRun", queued)
    assert "Lose" not in kinds(commands), "it may have begun since the last look"
    run = replace(run_in(RunState.CANCELLED), started=5.0 if begun else None)
    commands = table.until("Diagnose" if begun else "Lose", e.Report(WorkerId(1), run))
    if begun:
        cancelled = e.Verdict(run, "cancelled", outside=True)
        commands = table(diagnosed(WorkerId(1), ((TaskId(0), 1),), cancelled))
    [lose] = [command for command in commands if isinstance(command, e.Lose)]
    assert lose.cause.timed_out
    assert ("had not begun" in lose.cause.reason) is not begun


def test_what_had_ended_in_a_lost_container_is_not_said_to_have_not_begun():
    table = started(2, terms={"queue_timeout": 20.0}, max_workers=1)
    calls = ((TaskId(0), 1), (TaskId(1), 1))
    commands = table.until("Diagnose", e.Report(WorkerId(1), run_in(RunState.FAILED)))
    assert e.Diagnose(WorkerId(1), calls) in commands
    table.now += 30.0
    lost = e.Verdict(run_in(RunState.FAILED), "gone")
    commands = table(diagnosed(WorkerId(1), calls, lost, at=1))
    assert kinds(commands)[:2] == ["Again", "Lose"]
    assert e.Again(TaskId(0)) in commands


@pytest.mark.parametrize("one_shot", [False, True])
def test_a_call_of_a_frozen_worker_ends_here(one_shot):
    limit = 1 if one_shot else None
    table = started(terms={"timeout": 10.0}, max_tasks_per_worker=limit)
    frozen = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    commands = table.until("Lose", frozen, within=400.0)
    [lose] = [command for command in commands if isinstance(command, e.Lose)]
    assert lose.cause.timed_out
    assert "its timeout of 10 s" in lose.cause.reason
    assert e.CancelRun(WorkerId(1)) in commands
    assert 130 < table.now < 200


def test_a_call_that_waits_in_a_frozen_worker_has_its_queue_timeout():
    table = Table(max_workers=1)
    table.submit(0)
    table.submit(1, queue_timeout=5.0)
    table(PREPARED)
    table(launched(WorkerId(1)))
    frozen = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    commands = table.until("Lose", frozen, within=400.0)
    assert table.now > 100, "it may say that it has not begun it"
    [lose] = [command for command in commands if isinstance(command, e.Lose)]
    assert lose.task == 1
    assert lose.cause.timed_out
    assert "not seen to begin within its queue_timeout of 5 s" in lose.cause.reason
    while table.now < 600:  # the other one may run, and has no limit
        table.tick()
        assert "CancelRun" not in kinds(table(looked((replace(frozen, read=True),), 1, 0.0)))


@pytest.mark.parametrize("begun", [False, True])
def test_a_call_that_began_when_its_run_was_cancelled_for_another_is_not_run_again(begun):
    table = started(2, max_workers=1)
    running, over = run_in(RunState.RUNNING), run_in(RunState.CANCELLED)
    assert "Drop" in kinds(table(e.CancelRequested(TaskId(0))))
    commands = table.until("CancelRun", e.Report(WorkerId(1), running))
    commands = table.until("Diagnose", e.Report(WorkerId(1), over))
    [asked] = [command for command in commands if isinstance(command, e.Diagnose)]
    assert (asked.calls, asked.gone) == (((TaskId(1), 1),), ((TaskId(0), 1),))
    cancelled = e.Verdict(over, "cancelled", outside=True)
    commands = table(e.Done(asked, e.Diagnosis(((0, cancelled),) if begun else ())))
    assert ("Again" in kinds(commands)) is not begun
    for lose in [command for command in commands if isinstance(command, e.Lose)]:
        assert "another call in its container did not end" in lose.cause.reason


def test_a_worker_is_kept_until_all_its_calls_are_diagnosed():
    table = started(2, max_workers=1)
    out_of_memory = answer(0, _wire.MEMORY)
    running, over = run_in(RunState.RUNNING), run_in(RunState.FAILED)
    commands = table.looked(e.Report(WorkerId(1), running, (out_of_memory,)))
    [first] = [command for command in commands if isinstance(command, e.Diagnose)]
    commands = table.until("Diagnose", e.Report(WorkerId(1), over))
    [second] = [command for command in commands if isinstance(command, e.Diagnose)]
    memory = e.Verdict(over, "out of memory", memory=True)
    assert kinds(table(e.Done(first, e.Diagnosis(((0, memory),))))) == ["Lose"]
    assert kinds(table(e.Done(second, e.Diagnosis(((0, memory),))))) == ["Lose", "Archive"]


def test_a_late_call_may_be_cancelled_before_it_is_ended_here():
    table = started(2, terms={"timeout": 10.0}, max_workers=1)
    frozen = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    worker = table.scheduler.fleet.workers[WorkerId(1)]
    while not worker.late:
        table.looked(replace(frozen, complete=False))
    assert kinds(table(e.CancelRequested(TaskId(0))))[0] == "Drop"
    commands = table(looked((replace(frozen, read=True),), 1, 0.0))
    assert "Lose" not in kinds(commands)


def test_a_call_is_not_late_whose_answer_could_not_be_read():
    table = started(terms={"timeout": 10.0})
    unread = e.Report(WorkerId(1), run_in(RunState.RUNNING), complete=False)
    while table.now < 500:
        for command in table.tick():
            if isinstance(command, e.Look):
                reading = command.workers[0][1] is e.Reading.RUNNING
                commands = table(looked((replace(unread, read=reading),), 1, 0.3))
                assert "Lose" not in kinds(commands)
    late = e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),))
    assert "Settle" in kinds(table.until("Settle", late))


def test_a_container_that_is_set_up_first_has_more_time():
    table = Table(setup=True)
    table.submit(0, timeout=10.0)
    table(PREPARED)
    table(launched(WorkerId(1)))
    table.until("Lose", e.Report(WorkerId(1), run_in(RunState.RUNNING)), within=2_000.0)
    assert 1_000 < table.now < 1_200


def test_a_call_that_has_begun_in_time_is_left_alone():
    table = started(terms={"queue_timeout": 5.0})
    while table.now < 20:
        table.tick()
        commands = table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 1, 0.0))
        assert kinds(commands) == []


# --- failing early -------------------------------------------------------------------------------


def test_two_containers_show_whether_the_others_are_worth_it():
    table = Table(max_workers=10)
    table.submit(*range(500))
    launches = table(PREPARED)
    assert kinds(launches) == ["Launch", "Launch"]
    for launch in launches:
        table(launched(launch.worker))
    missing = [answer(task, _wire.MISSING_MODULE) for task, _ in launches[0].calls]
    commands = running(table, launches, missing)
    assert "Launch" not in kinds(commands)
    for _ in range(200):  # nor later, while nothing better is heard of
        if "Look" in kinds(table.tick()):
            commands = running_reports(table, launches)
            assert "Launch" not in kinds(commands)
    assert table.now > 5


def running_reports(table, launches):
    reports = [e.Report(x.worker, run_in(RunState.RUNNING), read=True) for x in launches]
    return table(looked(tuple(reports), 1, 0.0))


def test_the_first_good_answer_opens_the_pool():
    table = Table(max_workers=10)
    table.submit(*range(500))
    launches = table(PREPARED)
    for launch in launches:
        table(launched(launch.worker))
    commands = running(table, launches, [timed(0, 1.0)])
    assert kinds(commands).count("Launch") == 8


def test_while_nothing_is_known_the_width_grows_with_time():
    table = Table(max_workers=10)
    table.submit(*range(500))
    launches = table(PREPARED)
    for launch in launches:
        table(launched(launch.worker))
    widths = {}
    while table.now < 20:
        commands = table.tick()
        for command in [c for c in commands if isinstance(c, e.Launch)]:
            table(launched(command.worker))
        if "Look" in kinds(commands):
            table(looked((), 1, 0.0))
        widths[int(table.now)] = len(table.scheduler.fleet.workers)
    assert (widths[0], widths[1], widths[2], widths[3]) == (2, 4, 8, 10)


def test_containers_that_never_start_break_a_pool_in_which_none_has():
    table = Table(max_workers=10)
    table.submit(*range(500))
    launches = table(PREPARED)
    for launch in launches:
        table(launched(launch.worker))
    failed = e.Report(launches[0].worker, run_in(RunState.FAILED))
    commands = table.until("Diagnose", failed)
    [diagnose] = [command for command in commands if isinstance(command, e.Diagnose)]
    verdict = e.Verdict(run_in(RunState.FAILED), "its container did not start", unstarted=True)
    commands = table(diagnosed(diagnose.worker, diagnose.calls, verdict))
    assert set(kinds(commands)) == {"Again", "Archive"}
    commands = table(diagnosed(diagnose.worker, diagnose.calls, verdict))
    assert commands[0] == e.Break(commands[0].error)
    assert "did not start" in str(commands[0].error)


def test_of_a_lost_container_only_the_call_it_was_at_is_lost():
    table, launches = shared(6, workers=1)
    running(table, launches)
    for _ in range(3):
        commands = table.looked(e.Report(WorkerId(1), run_in(RunState.FAILED)))
    [diagnose] = commands
    assert [task for task, _ in diagnose.calls] == [0, 1, 2, 3, 4, 5]
    verdict = e.Verdict(run_in(RunState.FAILED), "gone")
    commands = table(diagnosed(WorkerId(1), diagnose.calls, verdict, at=1))
    assert kinds(commands)[:6] == ["Again", "Lose", "Again", "Again", "Again", "Again"]


def test_a_sign_of_life_is_written_while_nothing_else_is():
    table = started(lease=400.0)
    written = []
    while table.now < 450:
        for command in table.tick():
            if isinstance(command, e.Look):
                table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 1, 0.0))
            elif isinstance(command, e.WriteInbox):
                written.append(table.now)
                table(WRITTEN)
    assert [round(at, -1) for at in written] == [100, 200, 300, 400]


def test_what_workers_are_told_is_written_again():
    """An older version may have come late, and have taken the place of the newer one."""
    table = started(max_workers=1)
    table(e.Submitted(TaskId(1)))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    [write] = [command for command in commands if isinstance(command, e.WriteInbox)]
    table(WRITTEN)
    begin, written = table.now, []
    while table.now < begin + 700:
        for command in table.tick():
            if isinstance(command, e.Look):
                table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING)),), 1, 0.0))
            elif isinstance(command, e.WriteInbox):
                assert command == write
                written.append(table.now - begin)
                table(WRITTEN)
    assert [round(at, -1) for at in written] == [20, 60, 140, 300, 620]


def test_that_workers_shall_end_is_written_again_sooner():
    """They would have done so by then: a shutdown took 22 s for one write that came late."""
    table = started(max_workers=1)
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING))
    table.looked(replace(running, answers=(answer(0),)))
    assert kinds(table(e.ShutdownRequested())) == ["WriteInbox"]
    table(WRITTEN)
    for pause in (2.5, 5.0, 10.0):
        before = table.now
        [write] = writes(table.until("WriteInbox", running))
        assert write.letters[0].stop
        assert table.now - before == pytest.approx(pause, abs=0.01)


def test_looks_follow_the_budget_and_slow_down_while_nothing_happens():
    table = started()
    table.scheduler.fleet.looks.pause.saved = -1000.0
    pauses = []
    for _ in range(40):
        before = table.now
        table.tick()
        table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True),), 2, 0.15))
        pauses.append(table.now - before)
    assert pauses[2] == pytest.approx(1.2, rel=0.3)
    assert pauses[-1] == pytest.approx(15.0, rel=0.1)
    rounded = [round(pause, 6) for pause in pauses[1:]]
    assert rounded == sorted(rounded)


def test_looks_that_were_saved_are_quick_after_news_and_no_more_than_were_saved():
    table = started()
    table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True),), 1, 0.15))
    pauses = []
    for number in range(70):
        before = table.now
        table.tick()
        table(looked((e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True),), 1, 0.15))
        if number % 3 == 2:  # each third look brings news
            table(e.CancelRequested(TaskId(number)))
            table.scheduler.fleet.looks.soon(table.scheduler._step)
        pauses.append(table.now - before)
    assert min(pauses) == pytest.approx(QUICK_LOOK, rel=0.1)
    quick = sum(pause < 0.9 for pause in pauses)
    assert SAVED_LOOKS / 2 < quick < SAVED_LOOKS + sum(pauses) / 1.0


def test_where_the_platform_holds_looks_their_pause_is_spent_there():
    table = started()
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True)
    table.tick()
    holds = []
    [look] = table(looked((running,), 1, 0.0, 20.0))
    for _ in range(30):
        holds.append(round(look.hold, 6))
        [look] = table(looked((running,), 1, 0.0, 20.0), after=look.hold)  # at once, each time
    assert holds == sorted(holds)
    assert holds[-1] == SHORTEST_LOOK * LOOK_STRETCH  # as the pauses are that it would make
    # With news it is over at once, and the next one begins.
    one = replace(running, answers=(answer(0),))
    assert kinds(table(looked((one,), 1, 0.0, 20.0))) == ["Settle", "Look"]
    # What is not offered any more is not asked for.
    assert kinds(table(looked((running,), 1, 0.0), after=1.0)) == []
    [look] = table.tick()
    assert look.hold == 0.0


def test_a_held_look_reads_what_is_answered_to_calls_that_are_given_meanwhile():
    table = started()
    one = e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),), read=True)
    table.tick()
    settle, look = table(looked((one,), 1, 0.0, 20.0))
    assert kinds([settle, look]) == ["Settle", "Look"]
    assert look.workers == ((WorkerId(1), e.Reading.AT_END),)  # though it has no calls now
    [plain] = [*table(looked((one,), 1, 0.0), after=look.hold), *table.tick()]
    assert (plain.hold, plain.workers) == (0.0, ((WorkerId(1), e.Reading.NEVER),))


def test_a_held_look_that_ends_early_without_news_is_followed_by_a_pause():
    """There is news of another pool: it may have some all the time."""
    table = started()
    running = e.Report(WorkerId(1), run_in(RunState.RUNNING), read=True)
    table.tick()
    pauses = []
    [look] = table(looked((running,), 1, 0.0, 20.0))
    for _ in range(20):
        assert look.hold > 0
        assert table(looked((running,), 1, 0.0, 20.0), after=0.001) == []
        before = table.now
        [plain] = table.tick()
        assert plain.hold == 0.0
        pauses.append(table.now - before)
        [look] = table(looked((running,), 1, 0.0, 20.0), after=0.001)
    assert pauses[-1] == pytest.approx(SHORTEST_LOOK * LOOK_STRETCH, rel=0.01)


# --- tasks that need others --------------------------------------------------------------------


def needing(task: int, *tasks: int, upload: bool = False, terms: Terms = PLAIN_TERMS, **how):
    need = e.Need(tuple(map(TaskId, tasks)), **how)
    return e.Submitted(TaskId(task), upload=upload, terms=terms, needs=(need,), data=100)


def returned(task: int, size: int = 1) -> _wire.Answer:
    return replace(answer(task), data=_wire.Blob("0" * 64, size, inline=""))


def test_a_task_waits_for_another_one_and_holds_nothing():
    table = started(max_workers=1)
    assert table(needing(1, 0, values=True)) == []
    assert table.scheduler.tasks.known[TaskId(1)].phase is TaskPhase.WAITING
    done = e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),))
    assert kinds(table.looked(done)) == ["Settle", "WriteInbox"]
    assert table(WRITTEN) == []
    table(needing(2, 0))  # it has ended
    assert table.scheduler.tasks.known[TaskId(2)].phase is not TaskPhase.WAITING


def test_a_large_result_releases_who_needs_it_before_it_is_here():
    table = started(max_workers=1)
    table(needing(1, 0, values=True))
    large = answer(0, file=True)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (large,)))
    assert kinds(commands) == ["Fetch", "WriteInbox"]
    [letter] = commands[1].letters
    assert letter.calls == ((TaskId(1), 1),)
    # And whatever becomes of that: its function has returned.
    assert kinds(table(e.CancelRequested(TaskId(0)))) == ["Drop"]
    table(needing(2, 0))
    assert table.scheduler.tasks.known[TaskId(2)].phase is not TaskPhase.WAITING


def test_results_that_make_a_call_too_large_are_uploaded_with_it():
    table = started(tasks=2, max_workers=1)
    table(needing(2, 0, 1, values=True))
    table(needing(3, 0, 1))
    half = _wire.INLINE_LIMIT * 2 // 3
    answers = returned(0, half), returned(1, half)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), answers))
    assert kinds(commands) == ["Settle", "Settle", "Upload", "WriteInbox"]
    assert commands[2] == e.Upload(TaskId(2))


def test_what_must_be_uploaded_waits_first():
    table = started(max_workers=1)
    assert table(needing(1, 0, upload=True)) == []
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0),)))
    assert e.Upload(TaskId(1)) in commands


def test_a_thousand_in_a_row_that_cannot_be_run_any_more_end_at_once():
    table = started()
    for number in range(1, 1001):
        table(needing(number, number - 1))
    failed = answer(0, _wire.RAISED)
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (failed,)))
    assert commands[0] == e.Settle(TaskId(0), WorkerId(1), failed)
    expected = [e.Lose(TaskId(n), None, e.Unmet(TaskId(n - 1))) for n in range(1, 1001)]
    assert commands[1:] == expected
    [lost] = table(needing(1001, 1000))
    assert lost == e.Lose(TaskId(1001), None, e.Unmet(TaskId(1000)))


def test_a_thousand_that_one_needs():
    table = started(tasks=1000, max_workers=1)
    table(needing(1000, *range(1000), values=True))
    table(needing(1001, *range(1000), all=False))
    running = run_in(RunState.RUNNING)
    begun = []
    for number in range(1000):
        task = table.scheduler.tasks.known[TaskId(number)]
        if task.phase is TaskPhase.HELD:
            begun.append(number)
    table.looked(e.Report(WorkerId(1), running, tuple(map(answer, begun))))
    known = table.scheduler.tasks.known
    assert known[TaskId(1000)].unmet == (1 if len(begun) < 1000 else 0)
    assert known[TaskId(1000)].waits[0].left == 1000 - len(begun)
    assert known[TaskId(1001)].phase is not TaskPhase.WAITING


@pytest.mark.parametrize(
    ("how", "kind", "runs"),
    [
        ({}, _wire.RETURNED, True),
        ({}, _wire.RAISED, False),
        ({"failure": True}, _wire.RAISED, True),
        ({"success": False, "failure": True}, _wire.RETURNED, False),
        ({"success": False, "failure": True}, _wire.RAISED, True),
    ],
)
def test_what_must_have_become_of_it(how, kind, runs):
    table = started(max_workers=1)
    table(needing(1, 0, **how))
    commands = table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING), (answer(0, kind),)))
    assert kinds(commands) == ["Settle", "WriteInbox" if runs else "Lose"]
    later = table(needing(2, 0, **how))
    assert (kinds(later) == ["Lose"]) is not runs


def test_a_break_ends_what_waits_with_the_same_error():
    table = started()
    table(needing(1, 0))
    error = BrokenContainerPool("enough")
    commands = table(e.TerminateRequested(error))
    assert [c for c in commands if isinstance(c, e.Lose)] == [
        e.Lose(TaskId(0), WorkerId(1), error), e.Lose(TaskId(1), None, error),
    ]  # fmt: skip


def test_a_queue_timeout_says_what_was_waited_for():
    table = started()
    table(needing(1, 0, terms=Terms(queue_timeout=5.0)))
    commands = table.until("Lose", e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    [lost] = [command for command in commands if isinstance(command, e.Lose)]
    assert lost.task == 1
    assert lost.cause.reason.endswith("its queue_timeout of 5 s; it waited for task 0")


# --- calls that refuse their container ----------------------------------------------------------


def refused(table: Table, worker: int, *tasks: int, by: int = 0) -> list[e.Command]:
    """A worker that runs refuses these tasks; `by` others had them before."""
    answers = tuple(answer(task, _wire.REFUSED, attempt=by + 1) for task in tasks)
    return table.looked(e.Report(WorkerId(worker), run_in(RunState.RUNNING), answers))


def refused_by_all(table: Table) -> tuple[list[WorkerId], e.Settle]:
    """Each worker refuses task 0: those that were asked, and its end."""
    asked: list[WorkerId] = []
    states: dict[WorkerId, RunState] = {}
    unread: dict[WorkerId, _wire.Answer] = {}
    commands = table.submit(0)
    while True:
        more = []
        for command in commands:
            match command:
                case e.Settle():
                    return asked, command
                case e.Prepare():
                    more += table(PREPARED)
                case e.Launch(worker, ((_, given),)):
                    asked.append(worker)
                    states[worker] = RunState.SUCCEEDED if command.one_shot else RunState.RUNNING
                    unread[worker] = answer(0, _wire.REFUSED, attempt=given)
                    more += table(launched(worker))
                case e.WriteInbox():
                    assert not any(letter.calls for letter in command.letters)
                    stopped = [letter.worker for letter in command.letters if letter.stop]
                    states.update(dict.fromkeys(stopped, RunState.SUCCEEDED))
                    more += table(WRITTEN)
                case e.Look():
                    reports = [
                        e.Report(worker, run_in(states[worker]), (unread.pop(worker),), read=True)
                        if worker in unread
                        else e.Report(worker, run_in(states[worker]))
                        for worker, _ in command.workers
                    ]
                    more += table(looked(tuple(reports), 1, 0.0))
                case e.Archive(worker):
                    more += table(archived(worker))
                case _:
                    assert isinstance(command, e.Again)
        commands = more or table.tick()


def test_what_a_worker_has_refused_is_another_ones():
    table = started(terms={"judged": True, "max_retries": 1})
    commands = refused(table, 1, 0)
    assert kinds(commands) == ["Again", "Launch"]  # nobody is asked, and it is no attempt
    assert table.scheduler.tasks.known[TaskId(0)].attempts == 0
    assert commands[1].calls == ((TaskId(0), 2),)
    table(launched(WorkerId(2)))
    [write] = table.submit(1)  # the first one goes on with other calls
    assert write.letters == (e.LetterContent(WorkerId(1), ((TaskId(1), 1),)),)


@pytest.mark.parametrize("fresh", [None, 1])
@pytest.mark.parametrize("most", [1, 3])
def test_what_as_many_workers_as_there_may_be_have_refused_and_one_more_ends(most, fresh):
    table = Table(max_workers=most, max_tasks_per_worker=fresh)
    asked, last = refused_by_all(table)
    assert asked == [WorkerId(n + 1) for n in range(most + 1)]
    assert last.answer.kind == _wire.REFUSED
    assert table.now < 60.0, "the others make room for the last one"


def test_what_was_refused_can_be_cancelled_and_may_wait_too_long():
    table = started(2, max_workers=1, terms={"queue_timeout": 30.0})
    refused(table, 1, 0, 1)
    assert kinds(table(e.CancelRequested(TaskId(0))))[0] == "Drop"
    [lose] = [each for each in table.until("Lose") if isinstance(each, e.Lose)]
    assert lose.cause.reason == "it had not begun after its queue_timeout of 30 s"


def test_who_has_refused_a_call_makes_room_if_the_others_are_busy_for_long():
    """It once waited for the end of the other's call, or for the `idle_timeout`."""
    table = Table(max_workers=2, idle_timeout=1000.0)
    table.submit(0, 1)
    launches = [each for each in table(PREPARED) if isinstance(each, e.Launch)]
    for launch in launches:
        table(launched(launch.worker))
    running(table, launches)
    refused(table, 1, 0)
    runs = [e.Report(WorkerId(n), run_in(RunState.RUNNING)) for n in (1, 2)]
    assert not table.scheduler.fleet.workers[WorkerId(1)].stop, "the other may end soon"
    [write] = [c for c in table.until("WriteInbox", *runs) if isinstance(c, e.WriteInbox)]
    assert write.letters == (e.LetterContent(WorkerId(1), stop=True),)
    runs[0] = replace(runs[0], run=run_in(RunState.SUCCEEDED))
    [launch] = [c for c in table.until("Launch", *runs) if isinstance(c, e.Launch)]
    assert launch.calls == ((TaskId(0), 2),)


@pytest.mark.parametrize("place", range(3))
def test_where_requests_are_scarce_calls_go_to_those_that_can_do_them(place):
    """Those that could begin first may be those that cannot do them."""
    small, large = Resources(1, 1, 1), Resources(1, 5, 1)
    table = Table(max_workers=3)
    for task in range(3):
        table.submit(task, resources=large if task == place else small)
    table.scheduler.fleet.ramp.proven = True
    launches = [each for each in table(PREPARED) if isinstance(each, e.Launch)]
    for launch in launches:
        table(launched(launch.worker))
    done = [[timed(task, 0.1) for task, _ in launch.calls] for launch in launches]
    assert kinds(running(table, launches, *done)) == ["Settle"] * 3
    table.scheduler.fleet.looks.pace = 1.0  # second for each request
    table.submit(3, resources=large)
    [worker] = [w for w in table.scheduler.fleet.workers.values() if w.resources == large]
    assert worker.calls == [(TaskId(3), 1)]


# --- how long containers may run ---------------------------------------------------------------


def lost_hours(commands):
    return {
        int(command.task): command.cause
        for command in commands
        if isinstance(command, e.Lose) and isinstance(command.cause, ContainerHoursError)
    }


def busy(number, **policy):
    """A pool with this many calls, of which two workers run the first ones."""
    table = Table(**{"max_seconds": 100.0, **policy})
    table.submit(*range(number))
    for command in table(PREPARED):
        if isinstance(command, e.Launch):
            table(launched(command.worker))
    runs = [e.Report(WorkerId(n), run_in(RunState.RUNNING)) for n in (1, 2)]
    table.looked(*runs)
    return table, runs


def test_when_the_hours_are_used_up_what_runs_goes_on_and_the_rest_is_lost():
    table, _ = busy(5)
    running = {worker.calls[0][0] for worker in table.scheduler.fleet.workers.values()}
    table.now = 49.0
    assert not lost_hours(table(e.Tick()))
    table.now = 51.0
    commands = table(e.Tick())
    in_hand = {c[0] for w in table.scheduler.fleet.workers.values() for c in w.calls}
    assert running <= in_hand
    lost = lost_hours(commands)
    assert lost.keys() == set(range(5)) - in_hand
    [inbox] = [command for command in commands if isinstance(command, e.WriteInbox)]
    revoked = {call for letter in inbox.letters for call in letter.revoked}
    assert {call[0] for call in revoked} == in_hand - running
    assert not any(isinstance(command, e.CancelRun) for command in commands)


def test_no_call_begins_and_no_container_starts_after_that():
    table, _ = busy(2)
    table.now = 60.0
    table(e.Tick())
    commands = table.submit(2)
    [error] = lost_hours(commands).values()
    assert (error.limit, error.used) == (100 / 3600, pytest.approx(120 / 3600, rel=0.1))
    assert "max_container_hours is 0.02778" in str(error)
    assert "Launch" not in kinds(commands)
    waits = table(needing(3, 0))
    assert lost_hours(waits).keys() == {3}


def test_the_limit_is_noticed_when_it_is_reached():
    """Looks may fail all the time."""
    table, _ = busy(2)
    while not table.scheduler.hours.reached:
        if "Look" in kinds(table.tick()):
            table(look_failed(ERROR))
        assert table.now < 60
    assert table.scheduler.hours.used(table.now) == pytest.approx(100, abs=1)


def test_a_worker_that_is_idle_then_costs_nothing_more():
    table, (first, second) = busy(2)
    table.now = 60.0
    assert "Look" in kinds(table(e.Tick()))
    [call] = table.scheduler.fleet.workers[WorkerId(1)].calls
    done = replace(first, answers=(answer(call[0]),), read=True)
    assert "Settle" in kinds(table(looked((done, second), 1, 0.0)))
    assert table.scheduler.fleet.workers[WorkerId(1)].stop


@pytest.mark.parametrize("one_shot", [False, True])
def test_what_has_not_started_by_then_never_does(one_shot):
    table = Table(max_seconds=100.0, max_tasks_per_worker=1 if one_shot else None)
    table.submit(*range(3))
    for command in table(PREPARED):
        if isinstance(command, e.Launch) and command.worker == 1:
            table(launched(command.worker))  # the launch of the other one is under way
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)))
    table.now = 150.0
    commands = table(e.Tick())
    assert e.Recall(WorkerId(2)) in commands
    commands = table(e.Failed(e.Launch(WorkerId(2), ()), Recalled()))
    assert len(lost_hours(commands)) >= 1
    assert table.scheduler.fleet.workers.keys() == {WorkerId(1)}


def test_a_container_that_is_queued_for_one_call_is_cancelled():
    """It may begin before that; so no call is said to go on that was not seen to run."""
    table = Table(max_seconds=100.0, max_tasks_per_worker=1)
    table.submit(*range(2))
    for command in table(PREPARED):
        if isinstance(command, e.Launch):
            table(launched(command.worker))
    queued = e.Report(WorkerId(2), run_in(RunState.QUEUED))
    table.looked(e.Report(WorkerId(1), run_in(RunState.RUNNING)), queued)
    table.now = 150.0
    assert e.CancelRun(WorkerId(2)) in table(e.Tick())
    [error] = lost_hours(table.submit(2)).values()
    assert "Calls that were seen to run go on to their end" in str(error)


def test_a_call_that_fails_then_has_its_own_error():
    table, (first, second) = busy(2)
    table.scheduler.tasks.known[TaskId(0)].terms = Terms(max_retries=3, judged=True)
    table.now = 60.0
    assert "Look" in kinds(table(e.Tick()))
    failed = replace(first, answers=(answer(0, _wire.RAISED),), read=True)
    commands = table(looked((failed, second), 1, 0.0))
    assert "Settle" in kinds(commands)
    assert "Judge" not in kinds(commands)


def test_containers_count_for_as_long_as_the_platform_says_they_ran():
    table, _ = busy(2, max_seconds=1000.0)
    over = Run(1, RunState.FAILED, "failed", started=100.0, finished=107.5)
    table.looked(e.Report(WorkerId(1), over), e.Report(WorkerId(2), over))
    table.now = 500.0
    assert table.scheduler.hours.used(table.now) == 15.0


def test_of_an_adopted_container_counts_what_this_process_had_of_it():
    table = Table(max_seconds=100.0, keep_alive=60.0)
    table(e.Attached((Inherited(WorkerId(1), RunState.RUNNING),), 1))
    table.now = 8.0
    over = Run(1, RunState.FAILED, "failed", started=1000.0, finished=21_000.0)
    table.looked(e.Report(WorkerId(1), over))
    assert table.scheduler.hours.used(table.now) == 8.0
    assert not table.scheduler.hours.reached


# --- random histories --------------------------------------------------------------------------

NOT_BEGUN = TaskPhase.WAITING, TaskPhase.UPLOADING, TaskPhase.READY, TaskPhase.DELAYED

BAD_ENDS = [
    _wire.CRASHED,
    _wire.MEMORY,
    _wire.RAISED,
    _wire.TIMED_OUT,
    _wire.CALL_NOT_FETCHED,
    _wire.MISSING_MODULE,
]


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
    todo: dict = field(default_factory=dict)  # worker -> calls it has still to do
    seen: dict = field(default_factory=dict)  # worker -> calls it was ever given
    letters: dict = field(default_factory=dict)  # worker -> what the inbox holds for it
    stops: set = field(default_factory=set)  # workers that were letters_posted to stop
    recalled: set = field(default_factory=set)  # workers whose launch is not wanted any more
    terms: dict = field(default_factory=dict)  # task -> its terms
    submitted: int = 0
    finished: int = 0
    friendly: bool = False
    abandoned: set = field(default_factory=set)
    past: dict = field(default_factory=dict)  # task -> what an earlier process left of it
    cancels_awaited: bool = False
    needs: dict = field(default_factory=dict)  # task -> what it needs
    returned: dict = field(default_factory=dict)  # task -> whether its function has, once it ended
    depend: bool = False  # whether some tasks need others
    lease: float | None = None  # for how long workers shall stay for another process
    running_since: dict = field(default_factory=dict)  # worker -> when it was seen to run
    ran: float = 0.0  # seconds that workers have run which were seen to end
    processes: dict = field(default_factory=dict)  # worker -> how many calls it runs at once
    running: dict = field(default_factory=dict)  # worker -> those that it runs, of several
    refusing: random.Random | None = None  # who refuses which calls, if any does
    refused: dict = field(default_factory=dict)  # task -> the workers that have refused it
    late: random.Random | None = None  # which events the scheduler is told with those after them
    untold: list[e.Event] = field(default_factory=list)
    coming: e.Event | None = None  # told next, by itself

    def __post_init__(self):
        self.policy = self.scheduler.policy
        self.given = set()  # the calls that workers held after the event before
        self.allowed = self.policy.max_workers  # so many calls at once at the most, as of now
        self.used_up = False  # whether the containers have run for as long as they may
        self.slow = set()  # workers of which others will have done sooner what they could do
        give = self.scheduler.fleet.give

        def note_slow_ones(step, but):
            self.slow = but
            give(step, but)

        self.scheduler.fleet.give = note_slow_ones

    def send(self, event: e.Event) -> None:
        if not isinstance(event, TOGETHER):
            self.coming = event
            self.tell()
        self.coming = None
        self.untold.append(event)
        if self.late is None or not isinstance(event, TOGETHER) or self.late.random() < 0.6:
            self.tell()

    def tell(self) -> None:
        """All that the scheduler does not know yet, at once, as the manager does."""
        if not self.untold:
            return
        (event, *more), self.untold = self.untold, []
        commands = self.scheduler.advance(event, self.now, more)
        self.check_launches([each for each in commands if isinstance(each, e.Launch)])
        for command in commands:
            self.obey(command)
        self.check()

    def obey(self, command: e.Command) -> None:
        if isinstance(command, e.Settle | e.Lose | e.Drop):
            self.ended[command.task] += 1
            if isinstance(command, e.Lose) and isinstance(command.cause, e.Unmet):
                assert command.worker is None, "invariant 12"
                assert self.decided(command.task) is False, "invariant 12"
            if isinstance(command, e.Settle) and command.answer.kind == _wire.REFUSED:
                assert self.refusals(command) > self.scheduler.fleet.policy.max_workers
            good = isinstance(command, e.Settle) and command.answer.kind == _wire.RETURNED
            self.returned.setdefault(command.task, good)
        elif isinstance(command, e.Finish):
            self.finished += 1
            self.abandoned = set(command.abandoned)
        elif isinstance(command, e.CancelRun) and command.worker not in self.runs:
            pass  # the launch under way is recalled; it answers for itself
        elif isinstance(command, e.Recall):
            self.recalled.add(command.worker)
        elif isinstance(command, e.CancelsDone):
            self.cancels_awaited = False
            known = self.scheduler.fleet.workers.keys()  # others are another process's now
            going = [name for name in known & self.runs.keys() if not self.runs[name].over]
            freed = set().union(*(w.freed for w in self.scheduler.fleet.workers.values()))
            left = [(*self.todo[worker], *self.running.get(worker, ())) for worker in going]
            calls = {call[0] for call in itertools.chain(*left) if call not in freed}
            assert calls <= self.scheduler.tasks.known.keys(), "invariant 10"
        elif isinstance(command, e.Again):
            if isinstance(command.cause, _wire.Answer) and command.cause.kind == _wire.REFUSED:
                most = self.scheduler.fleet.policy.max_workers
                assert self.refusals(command) <= most, "invariant 15"
        elif not isinstance(command, e.Break):
            if isinstance(command, e.Judge) and isinstance(command.cause, _wire.Answer):
                assert command.cause.kind != _wire.REFUSED
            if isinstance(command, e.Fetch) and command.answer.kind == _wire.RETURNED:
                self.returned[command.task] = True  # its result can be had
            if isinstance(command, e.Launch):
                assert not self.scheduler.hours.reached, "invariant 13"
                assert all(name < self.submitted for name, _ in command.calls), "unclaimed"
                self.processes[command.worker] = command.processes
            same = [type(other) for other in self.pending]
            if isinstance(command, e.Look | e.WriteInbox | e.Prepare):
                assert type(command) not in same, "invariant 4"
            self.pending.append(command)

    def refusals(self, command: e.Again | e.Settle) -> int:
        """How many workers have refused a task, with this one."""
        refused = self.refused.setdefault(command.task, set())
        assert command.worker not in refused, "invariant 15"
        refused.add(command.worker)
        return len(refused)

    def check(self) -> None:
        scheduler = self.scheduler
        tasks, workers = scheduler.tasks, scheduler.fleet.workers
        held = {
            call[0]: worker
            for worker in workers.values()
            if worker.phase is not WorkerPhase.ARCHIVING
            for call in worker.calls
            if tasks.holds(call, worker)
        }
        for name, task in tasks.known.items():
            assert (task.phase is TaskPhase.HELD) == (name in held), "invariant 1"
            assert self.ended[name] == 0, "invariant 3"
            assert task.attempts <= self.terms[name].max_retries, "invariant 6"
            if task.phase is TaskPhase.WAITING:
                assert self.decided(name) is None, "invariant 12"
                assert tasks.awaited_by(name) in tasks.known, "invariant 7"
            elif task.phase in (TaskPhase.UPLOADING, TaskPhase.READY) and task.claimed:
                assert self.decided(name), "invariant 12"
            if name in held:
                assert held[name].resources.cover(task.resources), "invariant 5"
                assert held[name].id not in self.refused.get(name, ()), "invariant 15"
        phases = Counter(task.phase for task in tasks.known.values())
        assert +tasks.count == phases, "invariant 1"
        open_ = sum(worker.processes for worker in workers.values() if worker.open)
        assert open_ <= self.allowed, "invariant 2"
        running = (worker for worker, state in self.runs.items() if not state.over)
        active = sum(self.processes.get(worker, 1) for worker in running)
        assert active <= self.allowed, "invariant 2"
        self.allowed = max(
            scheduler.fleet.policy.max_workers, min(self.allowed, max(open_, active))
        )
        assert max(self.ended.values(), default=0) <= 1, "invariant 3"
        assert self.finished <= 1, "invariant 3"
        if self.finished:
            assert not tasks.known, "invariant 3"
            assert not workers, "invariant 3"
        for worker in workers.values():
            assert worker.calls_given <= (self.policy.max_tasks_per_worker or worker.calls_given), (
                "invariant 5"
            )
            assert worker.revoked <= set(worker.calls)
        self.check_places(workers)
        new = self.check_priorities(held)
        self.check_hours(tasks, new)
        if workers or any(task.phase is not TaskPhase.UNCLAIMED for task in tasks.known.values()):
            under_way = self.pending or self.coming is not None
            assert under_way or scheduler.deadline is not None, "invariant 7"

    def check_places(self, workers) -> None:
        """Invariant 9: each idle worker has calls on their way to it, if any that it could do are
        tied to a worker that two looks have found waiting for its start.
        """
        fleet, tasks = self.scheduler.fleet, self.scheduler.tasks
        able = (w for w in workers.values() if w.listens and w.running and w.free)
        idle = [w for w in able if w.id not in self.slow]
        limit = self.policy.max_tasks_per_worker
        room = sum(min(w.free, (limit or math.inf) - w.calls_given) for w in idle)
        waiting = [w for w in workers.values() if w.is_passed]
        moving = sum(tasks.holds(call, w) for w in waiting for call in w.revoked)
        too_many = sum(w.processes for w in workers.values() if w.open) > fleet.policy.max_workers
        # One may have to run out, to make room for a larger one.
        step, able = self.scheduler._step, fleet.listening()
        leaving = fleet._in_the_way(step, able, fleet.horizon())
        if room > moving and not (too_many or leaving):
            tied = [call for w in waiting for call in movable(fleet, w, idle)]
            assert not tied or not self.scheduler._known, "invariant 9"

    def check_launches(self, launches: list[e.Launch]) -> None:
        """Invariant 14."""
        tasks, workers = self.scheduler.tasks, self.scheduler.fleet.workers
        new = {launch.worker for launch in launches}
        before = [w for w in workers.values() if w.id not in new and w.fills and not w.alive]
        left = tasks.count[TaskPhase.READY]
        for launch in reversed(launches):
            left += len(launch.calls)
            needs = tasks.known[launch.calls[0][0]].resources
            room = sum(w.free for w in before if w.resources.cover(needs))
            assert left > room, "invariant 14"
            assert len(launch.calls) <= (self.policy.max_tasks_per_worker or math.inf)

    def decided(self, name: TaskId) -> bool | None:
        """Whether a task has all that it needs; False: it never will; None: that is open."""
        met = True
        for need in self.needs.get(name, ()):
            ends = [self.returned.get(other) for other in need.tasks]
            good = [None if end is None else need.success if end else need.failure for end in ends]
            enough, wrong = (all, any) if need.all else (any, all)
            if wrong(each is False for each in good):
                return False
            met = met and enough(good)
        return met or None

    def choose_needs(self, name: TaskId) -> tuple[e.Need, ...]:
        chance = self.chance
        needs = []
        while name and chance.random() < 0.3:
            few = min(name, chance.choice([1, 1, 2, 5]))
            tasks = chance.sample(range(max(0, name - chance.choice([3, 100])), name), k=1)
            tasks = tuple({*tasks, *chance.sample(range(name), k=few - 1)})
            kind = chance.choice([(True, False), (True, False), (False, True), (True, True)])
            needs.append(e.Need(tasks, chance.random() < 0.7, *kind, values=chance.random() < 0.5))
        return tuple(needs)

    def check_priorities(self, held) -> set:
        """Invariant 11: of what a worker could do, it was given what comes first. Gives the calls
        that were given to workers since the event before.
        """
        known = self.scheduler.tasks.known
        given = {(name, known[name].given): worker for name, worker in held.items()}
        ready = [task for task in known.values() if task.phase is TaskPhase.READY]
        for call in given.keys() - self.given:
            possible = [
                each
                for each in ready
                if given[call].resources.cover(each.resources)
                and given[call].id not in each.refused
            ]
            first = max((each.terms.priority for each in possible), default=-1)
            assert first <= known[call[0]].terms.priority, "invariant 11"
        new, self.given = given.keys() - self.given, given.keys()
        return new

    def check_hours(self, tasks, new) -> None:
        """Invariant 13, by sums of the world's own."""
        hours, limit = self.scheduler.hours, self.policy.max_seconds
        since = self.running_since.values()
        if hours.reached:
            if not self.used_up:
                used = self.ran + sum(self.now - begun for begun in since)
                assert used >= limit - 0.01, "invariant 13"
            assert not new, "invariant 13"
            phases = {task.phase for task in tasks.known.values() if task.claimed}
            assert not phases & {*NOT_BEGUN}, "invariant 13"
        else:
            assert hours.used(self.now) < limit, "invariant 13"
        self.used_up = hours.reached

    # what an earlier process has left

    def attach(self) -> None:
        """Workers of an earlier process, alive or not, and answers of others, long gone."""
        chance, limit = self.chance, self.policy.max_tasks_per_worker
        names = itertools.count()
        workers = []
        for number in range(1, chance.randint(1, self.policy.max_workers) + 1):
            worker = WorkerId(number)
            taken = chance.randint(1, limit or 4)
            calls = [(TaskId(next(names)), chance.randint(1, 3)) for _ in range(taken)]
            state = chance.choice([RunState.QUEUED, RunState.RUNNING, RunState.FAILED])
            revoked = () if limit == 1 or chance.random() < 0.7 else (calls[-1],)
            self.runs[worker], self.unread[worker] = state, []
            self.count_time(worker, state)
            self.todo[worker], self.seen[worker] = list(calls), set(calls)
            last = taken == limit
            if last:
                self.stops.add(worker)
            self.past.update((name, e.FoundTask(worker, given)) for name, given in calls)
            found = tuple(calls)
            workers.append(
                Inherited(
                    worker, state, found, found, revoked, found, taken, last,
                    resources=Resources(1, 5, 1),
                )
            )  # fmt: skip
        for _ in range(3):
            name, worker = TaskId(next(names)), WorkerId(len(workers) + 1)
            kind = chance.choice([None, _wire.RETURNED, _wire.RAISED])
            back = None if kind is None else answer(name, kind, file=chance.random() < 0.3)
            self.past[name] = e.FoundTask(worker, 1, back)
            self.runs[worker] = RunState.SUCCEEDED
        self.terms.update((name, Terms()) for name in self.past)
        self.send(e.Attached(tuple(workers), len(workers) + 1))

    # what the world does

    def fails(self, probability: float = 0.2) -> bool:
        return not self.friendly and self.chance.random() < probability

    def deliver(self) -> None:
        """One command under way comes to its end."""
        command = self.pending.pop(self.chance.randrange(len(self.pending)))
        failed = self.fails()
        hopeless = failed and self.chance.random() < 0.02
        match command:
            case e.Launch() if not failed and self.is_recalled(command):
                self.send(e.Failed(command, Recalled()))
                return
            case e.Launch() if not failed:
                self.runs[command.worker] = RunState.QUEUED
                self.todo[command.worker] = list(command.calls)
                self.seen[command.worker] = set(command.calls)
                if command.one_shot:
                    self.stops.add(command.worker)
                self.unread[command.worker] = []
            case e.WriteInbox() if not failed or self.chance.random() < 0.5:  # it may have effect
                self.post(command)
            case e.Look() if not failed:
                self.look(command)
                return
            case e.Diagnose():
                run = run_in(self.runs[command.worker])
                kind = self.chance.choice(["memory", "timed_out", "unstarted", "", "", "", ""])
                verdict = e.Verdict(run, "lost", **({kind: True} if kind else {}))
                at = [self.chance.randrange(len(command.calls))]
                if command.answer is None and (most := self.processes.get(command.worker, 1)) > 1:
                    few = min(self.chance.randint(1, most), len(command.calls))
                    at = sorted(self.chance.sample(range(len(command.calls)), few))
                self.send(e.Done(command, e.Diagnosis(tuple((each, verdict) for each in at))))
                return
            case e.Judge():
                self.send(e.Done(command, e.Judgement(self.chance.random() < 0.5)))
                return
            case e.CancelRun() if not failed:
                if not self.runs.get(command.worker, RunState.FAILED).over:
                    self.runs[command.worker] = RunState.CANCELLED
            case e.Archive():
                failed = False
        self.send(e.Failed(command, ERROR, hopeless) if failed else e.Done(command))

    def is_recalled(self, launch: e.Launch) -> bool:
        return launch.worker in self.recalled and self.chance.random() < 0.7

    def post(self, command: e.WriteInbox) -> None:
        self.letters = {letter.worker: letter for letter in command.letters}
        self.lease = command.lease

    def read(self, worker: WorkerId) -> None:
        """A worker reads the inbox."""
        letter = self.letters.get(worker, e.LetterContent(worker))
        seen, todo = self.seen[worker], self.todo[worker]
        todo += [call for call in letter.calls if call not in seen]
        seen.update(letter.calls)
        for call in letter.revoked + letter.ended:
            if call in todo or call not in seen:
                seen.add(call)
                if call in todo:
                    todo.remove(call)
                name, attempt = call
                back = answer(name, _wire.REVOKED, attempt=attempt, at=self.now)
                self.unread[worker].append(back)
        for call in letter.ended:
            if call in self.running.get(worker, ()):
                self.running[worker].remove(call)
                back = answer(call[0], _wire.REVOKED, attempt=call[1], at=self.now)
                self.unread[worker].append(back)
        if letter.stop:
            self.stops.add(worker)

    def look(self, command: e.Look) -> None:
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
            run = run_in(state)
            self.count_time(worker, state)
            sure = worker in command.ask_directly
            report = e.Report(
                worker, run, answers, complete, garbled, read=wanted, asked_directly=sure
            )
            if not complete and self.chance.random() < 0.5:
                report = replace(report, error=ERROR, hopeless=self.chance.random() < 0.1)
            reports.append(report)
        pace = self.chance.choice([0.0, 0.3])
        self.send(e.Done(command, e.Looked(tuple(reports), len(reports), pace)))

    def count_time(self, worker: WorkerId, state: RunState) -> None:
        if state is RunState.RUNNING:
            self.running_since.setdefault(worker, self.now)
        elif worker in self.running_since:
            self.ran += self.now - self.running_since.pop(worker)

    def work(self) -> None:
        """One run makes a step."""
        active = [worker for worker, state in self.runs.items() if not state.over]
        if not active:
            return
        worker = self.chance.choice(active)
        if self.runs[worker] is RunState.QUEUED:
            self.runs[worker] = RunState.RUNNING
            self.read(worker)  # before it begins anything, as a worker does
            return
        if self.fails(0.05):
            self.runs[worker] = self.chance.choice(
                [RunState.FAILED, RunState.CANCELLED, RunState.SUCCEEDED]
            )
            return
        if self.fails(0.5):
            self.read(worker)
        todo, running = self.todo[worker], self.running.setdefault(worker, [])
        if running and (len(running) >= self.processes[worker] or self.chance.random() < 0.5):
            self.end(worker, *running.pop(self.chance.randrange(len(running))))
        elif todo:
            call = todo.pop(0)
            self.begin(worker, *call)
            if self.processes.get(worker, 1) > 1:
                running.append(call)
            else:
                self.end(worker, *call)
        elif running:
            self.read(worker)
        elif worker in self.stops:
            self.runs[worker] = RunState.SUCCEEDED
        else:
            self.read(worker)

    def begin(self, worker: WorkerId, name: TaskId, attempt: int) -> None:
        """A worker begins a call."""
        task = self.scheduler.tasks.known.get(name)
        mine = self.scheduler.fleet.workers.get(worker)
        if task is not None and mine is not None and mine.phase is WorkerPhase.ALIVE:
            lost = task.phase in (TaskPhase.DELAYED, TaskPhase.READY) and mine.cancelled
            assert task.given == attempt or lost or mine.unknown_since is not None, "invariant 8"

    def end(self, worker: WorkerId, name: TaskId, attempt: int) -> None:
        """A call has ended."""
        kind = _wire.RETURNED
        if self.fails(0.1):
            kind = self.chance.choice(BAD_ENDS)
        elif self.refusing and (name % 7 == 0 or self.refusing.random() < 0.2):
            kind = _wire.REFUSED  # some calls suit nobody
        elif self.fails(0.002):
            kind = _wire.INITIALIZER
        file = self.chance.random() < 0.2
        self.unread[worker].append(answer(name, kind, attempt=attempt, file=file, at=self.now))

    def pass_time(self) -> None:
        self.tell()
        deadline = self.scheduler.deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
        self.send(e.Tick())

    def submit(self) -> None:
        name = TaskId(self.submitted)
        self.submitted += 1
        chance = self.chance
        terms = self.terms[name] = Terms(
            max_retries=chance.choice([0, 1, 3]),
            timeout=chance.choice([None, None, 20.0]),
            queue_timeout=chance.choice([None, None, 30.0]),
            resources=chance.choice([Resources(1, 1, 1), Resources(1, 1, 1), Resources(1, 5, 1)]),
            memory_growth=chance.choice([None, 2.0]),
            max_memory=8.0,
            judged=chance.random() < 0.2,
            priority=chance.choice([0, 0, 0, 1, -1]),
        )
        upload, found = chance.random() < 0.2, self.past.pop(name, None)
        needs = self.needs[name] = self.choose_needs(name) if self.depend else ()
        if found is None and chance.random() < 0.02:
            self.ended[name], self.returned[name] = 1, False
            self.send(e.NotSent(name))
            return
        self.send(
            e.Submitted(
                name, upload=upload, size=100, terms=terms, found=found, needs=needs, data=100
            )
        )

    def crowd(self) -> None:
        self.send(e.OthersWait(self.chance.choice([None, 0.0, self.now])))
        self.send(e.InboxInDoubt())

    def cancel(self) -> None:
        if self.submitted:
            self.send(e.CancelRequested(TaskId(self.chance.randrange(self.submitted))))
            if self.chance.random() < 0.3:
                self.cancels_awaited = True
                self.send(e.CancelsAwaited())

    def resize(self) -> None:
        number = self.chance.randint(1, 5)
        self.tell()
        self.allowed = max(self.allowed, number)
        self.send(e.Resized(number))


@dataclass
class AtMost(Shares):
    """No worker gets more calls at a time."""

    limit: int = 1

    def number(self, fair: int, horizon: float, own: Mean) -> int:
        return min(super().number(fair, horizon, own), self.limit)


def history(seed: int, heir: bool = False, late: bool = False) -> Counter:
    chance = random.Random(seed)
    policy = Policy(
        max_workers=chance.choice([1, 2, 3, 5]),
        max_tasks_per_worker=chance.choice([None, 1, 1, 2, 3]),
        idle_timeout=chance.choice([0.0, 1.0, 60.0]),
        keep_alive=chance.choice([0.0, 0.0, 30.0]),
        max_seconds=chance.choice([math.inf, math.inf, 1.0, 20.0, 100.0]),
        worker_processes=random.Random(f"{seed}").choice([1, 1, 2, 4]),
    )
    scheduler = Scheduler(policy, jitter=chance.random)
    scheduler.fleet.shares = AtMost(limit=chance.choice([100, 100, 1, 3]))
    world = World(chance, scheduler, depend=chance.random() < 0.5)
    world.late = random.Random(f"late {seed}") if late else None
    world.refusing = random.Random(f"refusing {seed}") if seed % 3 == 0 else None
    if heir:
        world.attach()
    steps = [world.deliver, world.work, world.pass_time, world.submit, world.cancel, world.crowd]
    steps.append(world.resize)
    weights = [10, 10, 3, chance.choice([1, 3, 6]), chance.choice([0, 0.2, 1]), 0.1, 0.1]
    for _ in range(chance.choice([20, 100, 300])):
        [step] = chance.choices(steps, weights)
        if step != world.deliver or world.pending:
            step()
    leave = False
    if chance.random() < 0.1:
        leave = heir and chance.random() < 0.5
        world.send(e.TerminateRequested(BrokenContainerPool("terminated"), leave))
    else:
        world.send(e.ShutdownRequested())
    early = world.finished  # it was broken, and is over
    world.friendly = chance.random() < 0.8
    for _ in range(20_000):
        if world.finished:
            break
        if world.pending:
            world.deliver()
        else:
            world.tell()
            world.pass_time()
        world.work()
    assert world.finished == 1, f"seed {seed}: it hangs"
    # What was under way for a task that was then cancelled comes to nothing; all else is over.
    harmless = e.Upload | e.Fetch | e.Diagnose | e.Judge | e.CancelRun
    if world.abandoned:  # the platform does not answer, and nobody waits for it any more
        harmless |= e.WriteInbox
    assert all(isinstance(command, harmless) for command in world.pending), f"seed {seed}"
    left = {worker for worker, state in world.runs.items() if not state.over}
    busy = {worker for worker in left if world.todo[worker] or world.running.get(worker)}
    kept = {worker for worker in left - busy if world.lease} - world.stops
    assert kept <= world.seen.keys() - world.letters.keys(), f"seed {seed}: it has to do something"
    assert leave or left - kept <= world.abandoned, f"seed {seed}: a run is left"
    assert not world.cancels_awaited or world.abandoned, f"seed {seed}: who waits is not told"
    assert early or not (world.friendly and world.abandoned), f"seed {seed}: given up too soon"
    assert set(world.ended) == set(range(world.submitted)), f"seed {seed}: a task is lost"
    return world.ended


HISTORIES = int(os.environ.get("CIVIS_FUTURES_HISTORIES", "250"))


def histories(seeds: range, heir: bool = False, late: bool = False) -> None:
    """Seeds are fixed, so that a failure names the one to run again: `history(SEED)`."""
    for seed in seeds:
        try:
            history(seed, heir, late)
        except AssertionError as error:
            error.add_note(f"history({seed}, {heir=}, {late=})")
            raise


def batches(number):
    """Parts of the histories: the first half here, and all of them in CI."""
    more = pytest.mark.repeats
    return [pytest.param(n, marks=more if n >= (number + 1) // 2 else ()) for n in range(number)]


@pytest.mark.parametrize("batch", batches(5))
def test_random_histories(batch):
    histories(range(batch * HISTORIES // 5, (batch + 1) * HISTORIES // 5))


@pytest.mark.parametrize("batch", batches(2))
def test_random_histories_of_an_heir(batch):
    """As above, in a session that an earlier process has begun."""
    histories(range(batch * HISTORIES // 5, (batch + 1) * HISTORIES // 5), heir=True)


@pytest.mark.parametrize("heir", [False, pytest.param(True, marks=pytest.mark.repeats)])
def test_random_histories_where_events_come_together(heir):
    """As above; the scheduler hears of several events at once, as when the manager is busy."""
    histories(range(HISTORIES // 3), heir, late=True)


@pytest.mark.stress
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("heir", [False, True])
def test_thousands_of_random_histories(heir, late):
    histories(range(20 * HISTORIES), heir, late)


def test_imports_say_nothing_of_how_long_later_calls_take():
    answer = _wire.Answer(1, _wire.RETURNED, INLINE, started=5.0, finished=5.5, importing=3.0)
    worker = Worker(WorkerId(1), Resources())
    report = e.Report(worker.id, None, (answer,))
    assert took(Observation(worker, report, over=False, changed=False)) == [0.5]
