"""How a run ended, by the words of its agent and of its scheduler; arithmetic."""

from __future__ import annotations

import dataclasses

from .._places.place import Ending
from .scheduler import JobSeen
from .script import LEFT_ALONE, NO_ORDER, NO_PYTHON, OLD_PYTHON

MOST_ASKED = 5  # looks, until an agent's word counts though the scheduler says the job goes on
KILLED = 137
# What an exit code means of a job whose agent never came.
NEVER_CAME = {
    NO_PYTHON: "there is no python3 on its path; see the option `setup`",
    OLD_PYTHON: "python3 is older there than 3.8; see the option `setup`",
    NO_ORDER: "its agent did not reach this platform, which must listen where jobs can reach it",
}


def is_clear(ending: Ending, *, ours: bool, termed: bool) -> bool:
    """Return whether the agent's word is enough: only we have sent a signal."""
    if ending.exit_code == 0 or ours or ending.out_of_memory:
        return True
    return not termed and ending.exit_code != KILLED


def both(ending: Ending, seen: JobSeen) -> Ending:
    """Return the end of a run that was sent a signal that was not ours."""
    if seen.state == "cancelled":
        return dataclasses.replace(ending, exit_code=None, cancelled_outside=True, why=seen.why)
    if seen.state == "out_of_memory":
        return dataclasses.replace(ending, out_of_memory=True)
    if seen.state == "lost" and seen.name:  # not: a job that it does not know any more
        return dataclasses.replace(ending, exit_code=None, why=seen.why)
    if seen.state == "ended" and seen.exit_code is None:  # its time was over
        return dataclasses.replace(ending, why=seen.why)
    return ending


def without_agent(seen: JobSeen, *, begun: bool) -> Ending:
    """Return the end of a run whose agent has not told it."""
    code = seen.exit_code
    if seen.state == "cancelled":
        return Ending(cancelled_outside=True, why=seen.why)
    if seen.state == "out_of_memory":
        return Ending(out_of_memory=True, why=seen.why)
    if seen.state == "lost" or code is None:
        return Ending(why=seen.why)
    if not begun:
        return Ending(why=f"{seen.why}: {NEVER_CAME.get(code, f'exit code {code}')}")
    if code == LEFT_ALONE:
        return Ending(why=f"{seen.why}: its agent did not reach this platform for its whole lease")
    return Ending(exit_code=code, why=None if code == 0 else seen.why)


def silent(seconds: float) -> str:
    """Return why a run is given up."""
    return f"its agent has said nothing for {seconds:.0f} s"
