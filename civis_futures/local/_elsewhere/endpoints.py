"""What agents ask of the platform, and what is checked of it: docs/engine-protocol.md.

Each agent has a key of its own, by which its run is known: no request names one. Nothing of what it
says gets near a command or a path.
"""

from __future__ import annotations

import math
from typing import Any

from .._places.place import Ending, Line
from .._schema.exchange import ApiError, ApiRequest, Reply
from .._schema.fields import refuse
from .._state import AgentDesk, Platform

MOST_LINES = 5_000  # in one report
LEVELS = ("info", "error")
WORDS = ("go", "stop", "term", "kill")
LONGEST_NAME = 300  # characters of an agent's or a machine's name
MOST = 2**53  # of any number


def post_order(platform: Platform, request: ApiRequest) -> Reply:
    """POST /_local/agents/order: what this agent is to run."""
    desk, run_id = _desk(platform, request)
    agent, host = (_text(request, name) for name in ("agent", "host"))
    return Reply(200, desk.give_order(run_id, agent, host))


def post_report(platform: Platform, request: ApiRequest) -> Reply:
    """POST /_local/agents/report: what the run has printed since, and how it ended."""
    desk, run_id = _desk(platform, request)
    first, termed, ended = (request.body.get(name) for name in ("first", "termed", "ended"))
    if not _is_number(first) or not isinstance(first, int) or not isinstance(termed, bool):
        raise refuse("`first` must be a number of a line, and `termed` true or false")
    lines = _lines(request.body.get("lines"))
    ending = None if ended is None else _ending(ended)
    answer = desk.take_report(run_id, _text(request, "agent"), first, lines, termed=termed)
    if ending is not None:
        desk.take_ending(run_id, ending)
    return Reply(200, answer)


async def post_word(platform: Platform, request: ApiRequest) -> Reply:
    """POST /_local/agents/word: what the agent is to do, once that is not what it knows."""
    desk, run_id = _desk(platform, request)
    known = request.body.get("known")
    if known not in WORDS:
        raise refuse(f"`known` must be one of {', '.join(WORDS)}")
    return Reply(200, {"word": await desk.word(run_id, _text(request, "agent"), known)})


def _desk(platform: Platform, request: ApiRequest) -> tuple[AgentDesk, int]:
    if platform.agents is None or request.run is None:
        raise ApiError(403, "forbidden", "Only agents may ask this.")
    return platform.agents, request.run


def _text(request: ApiRequest, name: str) -> str:
    text = request.body.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise refuse(f"`{name}` must be a text of up to {LONGEST_NAME} characters")
    return text


def _is_number(value: Any) -> bool:
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    return right and math.isfinite(value) and 0 <= value < MOST


def _lines(given: Any) -> list[Line]:
    if not isinstance(given, list) or len(given) > MOST_LINES:
        raise refuse(f"`lines` must be a list of up to {MOST_LINES}")
    return [_line(line) for line in given]


def _line(given: Any) -> Line:
    match given:
        case [when, "info" | "error" as level, str(text)] if _is_number(when):
            if len(text) <= 40_000:
                return float(when), level, text
    raise refuse("a line must be its time in seconds, info or error, and its text")


def _ending(given: Any) -> Ending:
    match given:
        case {
            "exit_code": int() | None as code,
            "out_of_memory": bool(short),
            "memory": memory,
            "cpu": cpu,
        } if _is_number(memory) and _is_number(cpu) and (code is None or 0 <= code <= 255):
            return Ending(code, out_of_memory=short, max_memory=memory, max_cpu=cpu)
    raise refuse("`ended` must have exit_code, out_of_memory, memory (MB) and cpu (cores)")
