"""What is assumed of Civis Platform, one by one, and what follows from what was seen. Pure.

The assumptions are those of the table in docs/design.md, in its words and its order; a test
compares the two. Below them are three things that are left open, with which we can do either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._api.budget import UNLIMITED
from .._kept.traits import LONGEST_LAG, UNKNOWN, Traits
from .._pacing import Pacing
from .._pool.verdict import told_by_run
from .._types import TaskId
from . import probe
from .visit import LAGS, TEXTS, Observed, digest, in_order

#: What is said of an assumption that needs nothing.
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One assumption: whether it holds (None: not seen), what was seen, and what follows."""

    assumption: str
    holds: bool | None
    seen: str
    follows: str


@dataclass(frozen=True, slots=True)
class _Assumption:
    text: str
    look: Callable[[Observed], tuple[bool | None, str]]
    otherwise: str  # what follows if it does not hold


def findings(seen: Observed) -> list[Finding]:
    """All assumptions, as they look now."""
    made = []
    for each in (*ASSUMPTIONS, *OPEN):
        holds, said = each.look(seen)
        if each in ASSUMPTIONS:
            follows = {True: NOTHING, False: each.otherwise, None: "it is still an assumption"}[
                holds
            ]
        else:
            holds, follows = None, each.otherwise
        made.append(Finding(each.text, holds, said, follows))
    return made


def traits_of(seen: Observed) -> Traits:
    """What clients are to take into account; where nothing was seen, what is safe."""
    renamed = seen.reported.get("renamed")
    arrived = seen.reported.get("text")
    counts = _starts_count(seen)
    size = UNKNOWN.text_limit if seen.text is None else seen.text
    if isinstance(arrived, int) and not _text_arrived(seen):
        size = 0
    return Traits(
        # Twice as long as was seen is waited for a list.
        list_lag=0.0 if seen.lag is None else min(round(2.0 * seen.lag, 2), LONGEST_LAG),
        text_limit=min(size, UNKNOWN.text_limit),
        renaming=renamed is True or renamed is None,
        starts_count=counts is not False,
        hidden_lists_have_all=seen.hidden == (True, True),
    )


# --- one by one ----------------------------------------------------------------------------------

_Look = tuple[bool | None, str]


def _not_seen(seen: Observed, what: str) -> _Look:
    return None, seen.refused.get(what, "not seen")


def _untold(seen: Observed) -> _Look:
    return None, "the probe has told nothing: see its log" if seen.runs else "not seen"


def _file_link(seen: Observed) -> _Look:
    if "file" not in seen.reported:
        return _untold(seen)
    found = seen.reported["file"]
    if found is None:
        return False, f"there was no {probe.FILE}_URL"
    if found == digest(probe.CONTENT):
        return True, "the link was there, and led to the File"
    return False, f"the link did not lead to the File: {found}"


def _endpoint(seen: Observed) -> _Look:
    if "user" not in seen.reported:
        return _untold(seen)
    way = "CIVIS_API_ENDPOINT" if seen.reported.get("endpoint") else "our address, none was set"
    if seen.reported["user"] == seen.user:
        return True, f"the container reached the platform ({way})"
    return False, f"the container did not reach it ({way}): {seen.reported['user']}"


def _text_arrived(seen: Observed) -> bool:
    size = seen.text or 0
    sent = probe.text_of(size).encode()
    return seen.reported.get("text") == size and seen.reported.get("digest") == digest(sent)


def _long_text(seen: Observed) -> _Look:
    if seen.text is None or "text" not in seen.reported:
        return _untold(seen)
    if not _text_arrived(seen):
        return False, f"{seen.text:,} bytes were sent, and {seen.reported['text']:,} arrived"
    if seen.text < TEXTS[0]:
        return False, f"{seen.text:,} bytes arrived; more were refused: {seen.refused['text']}"
    return True, f"{seen.text:,} bytes arrived"


def _hidden_list(seen: Observed) -> _Look:
    if seen.hidden is None or seen.rows is None:
        return _not_seen(seen, "hidden" if seen.hidden is None else "rows")
    if not seen.hidden[0]:
        return False, "the newest scripts were not in the list"
    if len(seen.rows) < len(seen.runs):
        return False, f"{len(seen.rows)} of {len(seen.runs)} runs were in the list at their end"
    if not in_order(seen.rows):
        return False, "the list was in another order"
    return True, "ours were there, the last changed first"


def _words(seen: Observed) -> _Look:
    if not seen.runs:
        return None, "not seen"

    def verdict(what: str) -> Any:
        said = [line.message.rstrip() for line in seen.logs.get(what, ())]
        return told_by_run(seen.runs[what], said, "", (TaskId(0), 0))

    code, memory = verdict("probe").exit_code, verdict("glutton").memory
    wrong = []
    if code != probe.EXIT_CODE:
        wrong.append(f"the log of exit code {probe.EXIT_CODE} ends with {_last(seen, 'probe')}")
    if not memory:
        wrong.append(f"that of a run without memory ends with {_last(seen, 'glutton')}")
    return (False, "; ".join(wrong)) if wrong else (True, "both were told in these words")


def _last(seen: Observed, what: str) -> str:
    return " / ".join(line.message.strip() for line in seen.logs.get(what, [])[-3:]) or "nothing"


def _rename(seen: Observed) -> _Look:
    if "renamed" not in seen.reported:
        return _untold(seen)
    done = seen.reported["renamed"]
    return done is True, "it did" if done is True else f"it could not: {done}"


def _starts_count(seen: Observed) -> bool | None:
    """Both times the same, or nothing is known: others may spend from the same limit."""
    limited = seen.general_limit is not None and seen.general_limit < UNLIMITED
    if not limited or not seen.spent:
        return None
    if all(spent >= 2 for spent in seen.spent):
        return True
    return False if all(spent == 1 for spent in seen.spent) else None


def _start_counts(seen: Observed) -> _Look:
    if seen.general_limit is None:
        return None, "the answers say nothing of a limit"
    if seen.general_limit >= UNLIMITED:
        return None, "there is no limit"
    said = " and ".join(str(spent) for spent in seen.spent)
    return _starts_count(
        seen
    ), f"a start and one request more took {said} of {seen.general_limit:,}"


def _start_headers(seen: Observed) -> _Look:
    if seen.general_limit is None or seen.start_limit is None:
        return None, "the answers say nothing of a limit"
    said = f"{seen.start_limit:,} at starts, {seen.general_limit:,} elsewhere"
    if seen.general_limit >= UNLIMITED:
        return None, "there is no limit"
    return seen.start_limit != seen.general_limit, said


def _ids(seen: Observed) -> _Look:
    if seen.names_are_new is None:
        return _not_seen(seen, "names_are_new")
    if list(seen.ids) != sorted(seen.ids):
        return False, f"scripts made one after the other have the ids {seen.ids}"
    if not seen.names_are_new:
        return False, "a script had its old name after it was renamed"
    return True, "ids grew, and names were new at once"


def _earlier_life(seen: Observed) -> _Look:
    logged = seen.reported.get("logged")
    if not isinstance(logged, int | float):
        return None, "only a platform that loses a container shows it"
    return None, f"a line was in the log {logged:.1f} s after it was printed; no container was lost"


def _lag(seen: Observed) -> _Look:
    if seen.lag is None:
        return _not_seen(seen, "lag")
    if math.isinf(seen.lag):
        return False, f"a list did not show a script {sum(LAGS):.0f} s after it was made"
    return seen.lag <= Pacing().lag, f"a list showed a script {seen.lag:.1f} s after it was made"


def _search(seen: Observed) -> _Look:
    if seen.searched is None:
        return _not_seen(seen, "searched")
    return seen.searched, "it was found" if seen.searched else "it was not found"


def _archived_outputs(seen: Observed) -> _Look:
    if seen.archived_outputs is None:
        if "archived_outputs" in seen.refused:
            return False, seen.refused["archived_outputs"]
        return None, "not seen"
    if seen.reported.get("output") is not True and not seen.archived_outputs:
        return None, f"the probe has posted none: {seen.reported.get('output', 'not seen')}"
    there = probe.OUTPUT in seen.archived_outputs
    return there, "it was there" if there else "it was not there"


def _archived_listed(seen: Observed) -> _Look:
    if seen.archived_listed is None:
        return _not_seen(seen, "archived_listed")
    return seen.archived_listed, "it was there" if seen.archived_listed else "it was not there"


def _log_header(seen: Observed) -> _Look:
    if seen.grows is None or seen.settled is None:
        return _not_seen(seen, "log")
    if seen.grows and seen.settled:
        return True, "it was said of an active run, and not of one that was over"
    if not seen.settled:
        return False, "it is said of a run that is over, too"
    return False, "it is not said of an active run"


def _levels(seen: Observed) -> _Look:
    levels = {line.message.strip(): line.level for line in seen.logs.get("probe", ())}
    plain, error = levels.get(probe.PRINTED), levels.get(probe.PRINTED_AS_ERROR)
    if plain is None or error is None:
        return None, "the lines are not in the log"
    return (plain != "error" and error == "error"), f"stdout: {plain}; stderr: {error}"


def _page(seen: Observed) -> _Look:
    return None, f"open it: {seen.page}"


ASSUMPTIONS = (
    _Assumption(
        "a parameter of type `file` gives its link in `<NAME>_URL`",
        _file_link,
        "nothing: the bootstrap asks the API for the link, one request more for each worker",
    ),
    _Assumption(
        "`CIVIS_API_ENDPOINT`, where a container has it, leads to the platform that runs it",
        _endpoint,
        "no worker can work here: its network has no way to the platform",
    ),
    _Assumption(
        "a `multi_line_string` holds an order of up to 100 kB",
        _long_text,
        "remembered: longer orders travel as Files",
    ),
    _Assumption(
        "a list with `hidden=true` shows our hidden scripts, by last change",
        _hidden_list,
        "nothing: runs are asked for directly, more slowly",
    ),
    _Assumption(
        "the log's words for an out-of-memory kill and an exit code",
        _words,
        "such an error is a plain CallLostError; please report the words",
    ),
    _Assumption(
        "a run may rename its own script",
        _rename,
        "remembered: workers do not try; answers are looked for less often",
    ),
    _Assumption(
        "run starts count against the general limit too",
        _start_counts,
        "remembered: starts leave the general limit alone",
    ),
    _Assumption(
        "run-start responses may speak of the run limit in `X-RateLimit-*`",
        _start_headers,
        "nothing: these headers are not used",
    ),
    _Assumption(
        "later things have higher ids; a script that is asked for by its id has its newest name",
        _ids,
        "two processes may hold a session: do not open one twice at a time",
    ),
    _Assumption(
        "what an earlier life of a run has printed is in its log when the next one begins",
        _earlier_life,
        "calls of a container that is started again run twice",
    ),
    _Assumption(
        "a list shows what was made two seconds ago",
        _lag,
        "remembered: lists are given twice that time",
    ),
    _Assumption(
        "`GET /jobs?q=` finds hidden scripts by a part of their name",
        _search,
        "sessions are begun anew; results of Memory are computed anew",
    ),
    _Assumption(
        "outputs of an archived script's run can be read",
        _archived_outputs,
        "a session gives no results of containers that have ended",
    ),
    _Assumption(
        "`archived=true` lists the archived scripts",
        _archived_listed,
        "`ps --all` lacks those that have ended",
    ),
    _Assumption(
        "`civis-cache-control: no-store` while a log may grow",
        _log_header,
        "following a log ends early, or some seconds late",
    ),
    _Assumption(
        "the level of a line of a log says by which stream it came",
        _levels,
        "lines of short calls may be taken for their neighbour's",
    ),
    _Assumption("the address of a script's page", _page, "a wrong link in messages"),
)


def _hidden_have_all(seen: Observed) -> _Look:
    if seen.hidden is None:
        return _not_seen(seen, "hidden")
    return None, "they also have the others" if seen.hidden[1] else "they have these only"


def _changed(seen: Observed) -> _Look:
    if seen.changed is None:
        return _not_seen(seen, "script")
    return None, "it does" if seen.changed else "it does not"


def _fractions(seen: Observed) -> _Look:
    if not seen.times:
        return None, "not seen"
    parts = any("." in text and text.partition(".")[2][:3] != "000" for text in seen.times)
    return None, "with parts of seconds" if parts else "in whole seconds"


OPEN = (
    _Assumption(
        "what lists of hidden scripts have", _hidden_have_all, "remembered: `ps` asks once or twice"
    ),
    _Assumption("a script's time of change follows its run", _changed, NOTHING),
    _Assumption("how times are given", _fractions, NOTHING),
)
