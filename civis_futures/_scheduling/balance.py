"""Calls that one worker has not begun and another one could do sooner. Pure, as the scheduler is.

Workers get calls ahead of time: with their launch, and then as many as keep them busy. Both are
guesses. Calls move where a guess was wrong: from a worker that runs and has many to one that has
none; and from a worker that has not started, though others have, to any that has room. What a
worker was given is taken back through the inbox; it moves once it is certain never to begin there.

And how the workers stand: whether they are too few or too many, and what users are told of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .._types import RunState, Standing, WorkerId
from . import events as e
from .fleet import Fleet
from .pacing import Step
from .state import TaskPhase, Worker, WorkerPhase


def even_out(fleet: Fleet, step: Step) -> None:
    """Take back what is better done elsewhere; `Fleet.give` deals it out again."""
    _from_waiting(fleet, step)
    if not fleet.tasks.count[TaskPhase.READY]:
        _from_running(fleet, step)


def resize(fleet: Fleet, step: Step, max_workers: int) -> None:
    """So many calls may run at once from now on. If that is more, workers that run keep no more
    than their share of the calls, so that there is work to start others for.
    """
    more = max_workers > fleet.policy.max_workers
    fleet.policy = replace(fleet.policy, max_workers=max_workers)
    fair = fleet.fair_share()
    for worker in fleet.workers.values():
        if more and worker.running and worker.reads_inbox and worker.open:
            unbegun, share = worker.unbegun, fair * worker.processes
            for call in unbegun[max(share - (worker.held - len(unbegun)), 0) :]:
                fleet.take_back(step, call, worker)


def hand_on(fleet: Fleet) -> None:
    """Workers that have nothing to do stay for the next process, and end by themselves after
    `keep_alive`.
    """
    if not fleet.handed_on:
        fleet.handed_on = {w.id for w in fleet.listening() if w.running and not w.calls}
        if fleet.handed_on:
            fleet.write_failed()


def may_even_out(fleet: Fleet) -> bool:
    """Whether a worker that has nothing to do may get calls of others."""
    for worker in fleet.workers.values():
        wanted = [call for call in worker.calls if fleet.tasks.holds(call, worker)]
        begun = worker.running and not worker.revoked.intersection(wanted)
        at_once = worker.processes if begun else 0
        if worker.open and worker.reads_inbox and len(wanted) > at_once:
            return True
    return False


def standing(fleet: Fleet, now: float, tasks_wait: bool) -> Standing:
    """How the containers are, as far as tasks wait for them."""
    open_ = [worker for worker in fleet.workers.values() if worker.open]
    queued = [w for w in open_ if w.alive and w.state is RunState.QUEUED and not w.cancelled]
    running = [worker for worker in open_ if worker.running]
    held_back = any(w.held > (w.processes if w.running else 0) for w in open_)
    return Standing(
        containers=len(open_),
        launching=sum(not worker.alive for worker in open_),
        queued=len(queued),
        running=len(running),
        idle=sum(not worker.held for worker in running),
        queued_since=min((worker.launched for worker in queued), default=now),
        room_wanted_since=min((w.launched for w in queued if w.held), default=None),
        tasks_wait=tasks_wait or held_back,
        probing=tasks_wait and not fleet.ramp.proven and fleet.room_left() > 0,
    )


def _from_waiting(fleet: Fleet, step: Step) -> None:
    """From workers that have not started though others have, the oldest calls first.

    One that is held up may give to any that has room, which need not be idle yet. One that will
    start soon gives to those that are idle, one call to each, or what these do until then.
    """
    waiting = [worker for worker in fleet.workers.values() if worker.is_passed]
    if not waiting:
        return
    horizon = fleet.horizon()
    helpers = [
        worker
        for worker in fleet.listening()
        if worker.running
        and not fleet.is_busy(step, worker, horizon)
        and fleet.tasks.next_ready(worker.resources) is None
    ]
    if not helpers:
        return
    moving = sum(fleet.tasks.holds(call, worker) for worker in waiting for call in worker.revoked)
    fair = fleet.fair_share()
    room = sum(fleet.room(helper, fair, horizon) for helper in helpers)
    idle = sum(helper.free for helper in helpers)
    calls = [(call, worker) for worker in waiting for call in movable(fleet, worker, helpers)]
    for call, worker in sorted(calls, key=lambda pair: pair[0]):
        most = room if worker.held_up else min(room, idle * fleet.done_before(step, worker))
        if moving < most:
            moving += 1
            _take_back(fleet, step, call, worker)


def _take_back(fleet: Fleet, step: Step, call: e.Given, worker: Worker) -> None:
    worker.revoked.add(call)
    fleet.news(step, worker)
    if worker.phase is WorkerPhase.LAUNCHING and not worker.recalled:
        worker.recalled = True
        step.do(e.Recall(worker.id))


def movable(fleet: Fleet, worker: Worker, helpers: Collection[Worker]) -> list[e.Given]:
    """The calls of a worker that has not started which one of these could do."""
    if not worker.reads_inbox:
        return []
    sizes = {helper.resources for helper in helpers}
    return [
        call
        for call in worker.unbegun
        if any(fleet.serves(resources, call[0]) for resources in sizes)
    ]


def _from_running(fleet: Fleet, step: Step) -> None:
    """From workers that have many calls, for those that have room to begin some."""
    helpers = [w for w in fleet.listening() if w.running and w.free]
    if not helpers:
        return
    horizon = fleet.horizon()
    running = [w for w in fleet.workers.values() if w.running and not w.cancelled and w.unbegun]
    for helper in helpers:
        victims = [
            (_surplus(fleet, each, helper, step, horizon), each.id)
            for each in running
            if each is not helper
        ]
        number, name = max(victims, default=(0, WorkerId(0)))
        if not number:
            return
        victim = fleet.workers[name]
        victim.revoked.update(victim.unbegun[-number:])
        fleet.news(step, victim)


def _surplus(fleet: Fleet, worker: Worker, helper: Worker, step: Step, horizon: float) -> int:
    """How many of its calls, the last ones, the helper should take; a move takes `horizon`."""
    unbegun = worker.unbegun
    if not worker.reads_inbox or any(fleet.tasks.holds(call, worker) for call in worker.revoked):
        return 0
    if not all(fleet.serves(helper.resources, name) for name, _ in unbegun):
        return 0
    age = step.now - worker.at_call_since
    return fleet.shares.surplus(len(unbegun), age, horizon, worker.processes, helper.free)
