"""Calls that one worker has not begun and another one could do sooner. Pure, as the scheduler is.

Workers get calls ahead of time: with their launch, and then as many as keep them busy. Both are
guesses. Calls move where a guess was wrong: from a worker that runs and has many to one that has
none; and from a worker that has not started, though others have, to any that has room. What a
worker was given is taken back through the inbox; it moves once it is certain never to begin there.

And how the workers stand: whether they are too few or too many, what users are told of it, and
which are another process's.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from .._types import RunState, Standing, TaskId, WorkerId
from . import events as e
from .fleet import Fleet
from .pacing import RetriedRequest, Step, worthwhile
from .state import TaskPhase, Worker, WorkerPhase

#: A worker may be a slow one if its calls take SLOW times as long as those of all.
SLOW = 3.0
#: Calls are taken back from a worker that would else end later by this part of the time that they
#: take to move.
WORTH = 1.5


def even_out(fleet: Fleet, step: Step) -> None:
    """Take back what is better done elsewhere; `Fleet.give` deals it out again."""
    _from_waiting(fleet, step)
    if not fleet.tasks.count[TaskPhase.READY]:
        _from_running(fleet, step)


def slow_ones(fleet: Fleet, step: Step) -> set[WorkerId]:
    """Workers without calls, than which others, although they have some, will sooner have done the
    next one that they could do.
    """
    seconds, ready = fleet.shares.seconds, fleet.tasks.count[TaskPhase.READY]
    slow = [
        w
        for w in fleet.listening()
        if not w.calls and (w.took.seconds or 0) > SLOW * (seconds or 0)
    ]
    if not (seconds and ready and slow):
        return set()
    lag = fleet.lag
    others = [w for w in fleet.listening() if w.running and w.held]
    rates = [(w, _rate(fleet, w, step, lag)) for w in others]
    done = [(w, _left(w, rate, step, lag) + 1 / rate) for w, rate in rates]

    def soonest(name: TaskId | None) -> float:
        able = (end for w, end in done if name is not None and fleet.serves(w, name))
        return min(able, default=math.inf)

    nexts = {w.id: fleet.tasks.next_ready(w) for w in slow}
    at = {name: soonest(name) for name in set(nexts.values())}
    return {w.id for w in slow if 1 / _rate(fleet, w, step, lag) > at[nexts[w.id]]}


def resize(fleet: Fleet, step: Step, max_workers: int) -> None:
    """So many calls may run at once from now on. If that is more, workers that run keep no more
    than their share of the calls, so that there is work to start others for.
    """
    more = max_workers > fleet.policy.max_workers
    fleet.policy = replace(fleet.policy, max_workers=max_workers)
    fair = fleet.fair_share(step)
    for worker in fleet.workers.values():
        if more and worker.running and worker.reads_inbox and worker.open:
            unbegun, share = worker.unbegun, fair * worker.processes
            for call in unbegun[max(share - (worker.held - len(unbegun)), 0) :]:
                fleet.take_back(step, call, worker)


def adopt(fleet: Fleet, step: Step, attached: e.Attached) -> None:
    """These workers were launched by an earlier process, and are ours now."""
    fleet.highest_id = attached.highest_id
    for found in attached.workers:
        worker = fleet.workers[found.id] = Worker.inherited(found, step.now)
        fleet.news(step, worker)
        for call in found.wanted:
            fleet.tasks.inherit(call, found.id)


def leave(fleet: Fleet) -> None:
    """Workers are another process's now; those that it cannot know of stay."""
    for worker in list(fleet.workers.values()):
        if worker.phase in (WorkerPhase.ALIVE, WorkerPhase.CONCLUDING):
            del fleet.workers[worker.id]


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


def has_unwanted_calls(fleet: Fleet) -> bool:
    """Whether a container may still run a call that was cancelled."""
    open_ = [worker for worker in fleet.workers.values() if worker.open]
    return any(worker.cancelled for worker in open_) or any(
        not (fleet.tasks.holds(call, w) or call in w.freed) for w in open_ for call in w.calls
    )


def standing(fleet: Fleet, now: float, preparing: RetriedRequest, last_look: float) -> Standing:
    """How the containers are, as far as tasks wait for them; and what fails."""
    tasks_wait, looks = bool(fleet.tasks.count[TaskPhase.READY]), fleet.looks
    tried = (preparing, fleet.launching, fleet.starting, fleet.writing)
    failed = max(tried, key=lambda attempts: attempts.not_before)
    every = (*tried, looks.looking, looks.reading, fleet.cancelling)
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
        troubles=tuple((each.what, each.error) for each in every if each.failures),
        unseen_since=last_look if looks.looking.failures else None,
        unseen=looks.looking.error,
        refused=failed.error if failed.not_before > now else "",
        again_at=failed.not_before,
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
        and fleet.tasks.next_ready(worker) is None
    ]
    if not helpers:
        return
    moving = sum(fleet.tasks.holds(call, worker) for worker in waiting for call in worker.revoked)
    fair = fleet.fair_share(step)
    room = sum(max(fleet.room(step, helper, fair, horizon), 0) for helper in helpers)
    idle = sum(helper.free for helper in helpers)
    calls = [(call, worker) for worker in waiting for call in movable(fleet, worker, helpers)]
    for call, worker in sorted(calls, key=lambda pair: pair[0]):
        most = room if worker.held_up else min(room, idle * _done_before(fleet, step, worker))
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
    serve = fleet.some_serve(helpers)
    return [call for call in worker.unbegun if serve(call[0])]


def _from_running(fleet: Fleet, step: Step) -> None:
    """From workers that have work for longer than others, for those that will soon have none: so
    much that all of them run out at the same time, as far as can be told.
    """
    readers = fleet.sharing()
    lag, move = fleet.lag, fleet.looks.move(readers)
    running = [worker for worker in fleet.workers.values() if worker.running]
    if not any(len(worker.calls) > worker.processes for worker in running):
        return
    rates = {worker.id: _rate(fleet, worker, step, lag) for worker in running}
    if fleet.shares.seconds is None:  # then one is as good as the other
        rates = dict.fromkeys(rates, min(rates.values()))
    left = {worker.id: _left(worker, rates[worker.id], step, lag) for worker in running}
    moving = sum(fleet.tasks.holds(call, w) for w in running for call in w.revoked)
    level = sum(max(left[name], move) * rate for name, rate in rates.items()) + moving
    level /= sum(rates.values())
    takers = [w for w in running if w.listens and left[w.id] < level]
    soon = any(worker.free or left[worker.id] < move for worker in takers)
    worth = move / WORTH if soon else fleet.looks.horizon(readers)
    worth = max(worth, worthwhile(fleet.looks.pace))
    for victim in running if takers else ():
        more = left[victim.id] - level
        if more <= worth or not _gives(fleet, victim):
            continue
        number = round(more * rates[victim.id])
        if calls := movable(fleet, victim, takers)[-number:] if number else []:
            victim.revoked.update(calls)
            fleet.news(step, victim, 0.0)  # it answers at its turn


def _gives(fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker that runs can be asked for calls, and need not yet answer that."""
    asked = any(fleet.tasks.holds(call, worker) for call in worker.revoked)
    return worker.reads_inbox and not (worker.cancelled or asked)


def _rate(fleet: Fleet, worker: Worker, step: Step, lag: float) -> float:
    """How many calls a worker does in a second, as far as can be told; looks show answers up to
    `lag` seconds late.
    """
    age = step.now - worker.at_call_since if worker.calls else 0.0
    return worker.processes / fleet.shares.each(worker.took, age - lag)


def _left(worker: Worker, rate: float, step: Step, lag: float) -> float:
    """For how many seconds it has work. For all that is known, it has worked off its calls since it
    was seen to come to its present one; unless that would have been seen by now.
    """
    age = step.now - worker.at_call_since
    return max(worker.held / rate - (age if age < lag else 0.0), 0.0)


def _done_before(fleet: Fleet, step: Step, worker: Worker) -> int:
    """How many calls another worker will have done before this one starts; at least 1."""
    left = (worker.launched + fleet.startup - step.now) / 2  # calls take their time to move
    return max(1, int(left / fleet.shares.seconds)) if fleet.shares.seconds else 1
