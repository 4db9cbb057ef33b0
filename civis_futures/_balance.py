"""Calls that one worker has not begun and another one could do sooner. Pure, as the scheduler is.

Workers get calls ahead of time: with their launch, and then as many as keep them busy. Both are
guesses. Calls move where a guess was wrong: from a worker that runs and has many to one that has
none; and from a worker that has not started, though others have, to any that has room. What a
worker was given is taken back through the inbox; it moves once it surely never begins there.
"""

from __future__ import annotations

from collections.abc import Collection

from . import _events as e
from ._fleet import Fleet
from ._state import TaskPhase, Turn, Worker, WorkerPhase
from ._types import Resources, WorkerId


def even_out(fleet: Fleet, turn: Turn) -> None:
    """Take back what is better done elsewhere; `Fleet.give` deals it out again."""
    _from_held_up(fleet, turn)
    if not fleet.tasks.count[TaskPhase.READY]:
        _from_running(fleet, turn)


def may_even_out(fleet: Fleet) -> bool:
    """Whether a worker that has nothing to do may get calls of others."""
    for worker in fleet.workers.values():
        wanted = [call for call in worker.calls if fleet.tasks.holds(call, worker)]
        begun = worker.running and not worker.revoked.intersection(wanted)
        if worker.open and worker.reads_inbox and len(wanted) > begun:
            return True
    return False


def _from_held_up(fleet: Fleet, turn: Turn) -> None:
    """From workers that have not started, the oldest calls first, as many as others have room for.

    Those may be idle, or about to be: so that they need not wait for what moves.
    """
    helpers = [
        worker
        for worker in fleet.listening()
        if worker.running
        and not fleet.is_busy(turn, worker)
        and fleet.tasks.next_ready(worker.resources) is None
    ]
    if not helpers:
        return
    waiting = [worker for worker in fleet.workers.values() if worker.held_up and worker.open]
    held_up = [worker for worker in waiting if not worker.cancelled]
    moving = sum(fleet.tasks.holds(call, worker) for worker in held_up for call in worker.revoked)
    fair = fleet.fair_share(turn)
    room = sum(fleet.room(helper, fair) for helper in helpers) - moving
    calls = [(call, worker) for worker in held_up for call in movable(fleet, worker, helpers)]
    calls.sort(key=lambda pair: pair[0])
    for call, worker in calls[: max(room, 0)]:
        worker.revoked.add(call)
        fleet.news(turn, worker)
        if worker.phase is WorkerPhase.LAUNCHING and not worker.recalled:
            worker.recalled = True
            turn.do(e.Recall(worker.id))


def movable(fleet: Fleet, worker: Worker, helpers: Collection[Worker]) -> list[e.Given]:
    """The calls of a worker that has not started which one of these could do."""
    if not worker.reads_inbox:
        return []
    return [
        call
        for call in worker.unbegun
        if any(fleet.serves(helper.resources, call[0]) for helper in helpers)
    ]


def _from_running(fleet: Fleet, turn: Turn) -> None:
    """From workers that have many calls, for those that have none, and for one to be launched."""
    idle = [worker.resources for worker in fleet.listening() if worker.running and not worker.held]
    helpers: list[Resources | None] = [*idle]
    if not idle and fleet.has_room(turn):
        helpers.append(None)
    for helper in helpers:
        running = [w for w in fleet.workers.values() if w.running and not w.cancelled]
        victims = [(_surplus(fleet, worker, helper, turn), worker.id) for worker in running]
        number, name = max(victims, default=(0, WorkerId(0)))
        if not number:
            return
        victim = fleet.workers[name]
        victim.revoked.update(victim.unbegun[-number:])
        fleet.news(turn, victim)


def _surplus(fleet: Fleet, worker: Worker, helper: Resources | None, turn: Turn) -> int:
    """How many of its calls, the last ones, a helper of that size (None: of any) should take."""
    unbegun = worker.unbegun
    if not worker.reads_inbox or any(fleet.tasks.holds(call, worker) for call in worker.revoked):
        return 0
    if helper and not all(fleet.serves(helper, name) for name, _ in unbegun):
        return 0
    return fleet.shares.surplus(len(unbegun), turn.now - worker.since, fleet.horizon())
