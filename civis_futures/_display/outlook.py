"""Why tasks wait, in words. Pure: how the containers are in, a sentence out."""

from __future__ import annotations

from .._types import Standing
from .panels import duration


def why_waiting(standing: Standing, now: float) -> str:
    """What the waiting tasks of a pool wait for at `now` (monotonic, seconds)."""
    reasons = [_unseen(standing, now), _unstarted(standing, now), _queued(standing, now)]
    said = [reason for reason in reasons if reason] or [_busy(standing)]
    if standing.probing:
        said.append("more are started once one has shown that it can do the work")
    return "; ".join(said)


def _unseen(standing: Standing, now: float) -> str:
    since = standing.unseen_since
    if since is None or now - since < 10.0:
        return ""
    return f"for {duration(now - since)} the containers could not be seen: {standing.unseen}"


def _unstarted(standing: Standing, now: float) -> str:
    """Containers that the platform has not been asked for yet, or in vain."""
    if standing.refused:
        again = duration(max(standing.again_at - now, 0.0))
        return f"the last try has failed, the next one is in {again}: {standing.refused}"
    if standing.launching and standing.next_start > now:
        return (
            f"{_of(standing.launching, standing)} about to start, but the platform limits how many "
            f"do: the next one may in {duration(standing.next_start - now)}"
        )
    return ""


def _queued(standing: Standing, now: float) -> str:
    if not standing.queued:
        return ""
    waited = now - standing.queued_since
    waited_for = f" for {duration(waited)}" if waited >= 1 else ""
    running = {0: "none runs", 1: "1 runs"}.get(standing.running, f"{standing.running} run")
    rest = "" if standing.queued == standing.containers else f"; {running}"
    return f"{_of(standing.queued, standing)} queued on the platform{waited_for}{rest}"


def _busy(standing: Standing) -> str:
    if not standing.running:
        return "a container is about to be started"
    busy = standing.running - standing.idle
    if not busy:
        return "it is on its way to a container"
    if standing.idle:
        number = f"{busy} of the {standing.running} containers that run"
        return f"{number} {'is' if busy == 1 else 'are'} busy; the others take over what waits"
    if busy == 1:
        return "the container that runs is busy"
    return f"the {busy} containers that run are busy"


def _of(number: int, standing: Standing) -> str:
    """``8 of 10 containers are``."""
    if standing.containers == 1:
        return "the container is"
    if number == standing.containers:
        return f"all {number} containers are"
    return f"{number} of {standing.containers} containers {'is' if number == 1 else 'are'}"
