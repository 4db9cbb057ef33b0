"""What the scheduler and the manager say to each other: events in, commands out, all frozen.

This module knows only the leaves. A command names tasks and workers by id; what belongs to an id
(bytes, futures, runs) stays with the manager.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .._types import ANY_RESOURCES, PLAIN_TERMS, Inherited, Resources, Run, TaskId, Terms, WorkerId
from .._wire import Answer

#: One more kind of answer, made here: its bytes are not those that were sent.
CORRUPT = "its result came back corrupt"

#: A task as it is given to a worker, and which time that is: 1, 2, ...
Given = tuple[TaskId, int]

# --- events: what happened ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundTask:
    """What an earlier process of the session left of a task: the last attempt, and its answer."""

    worker: WorkerId
    attempt: int
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What must have come of other tasks before one may begin: `all` of them, or any one, must have
    ended with `success`, which is that their function returned, or with `failure`. With `values`,
    their results are parts of its call.
    """

    tasks: tuple[TaskId, ...]
    all: bool = True
    success: bool = True
    failure: bool = False
    values: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """Which task a call is. In a session also its key, what was found of it, and why it must not be
    sent, if so.
    """

    task: TaskId
    key: str = ""
    found: FoundTask | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A new task; `upload` if its call is too large to travel inline, else its `size` in bytes.

    `needs` name tasks that were submitted before. `data` is how many bytes its pickle has, to which
    results of these are added.
    """

    task: TaskId
    upload: bool = False
    size: int = 0
    terms: Terms = PLAIN_TERMS
    key: str = ""
    found: FoundTask | None = None
    needs: tuple[Need, ...] = ()
    data: int = 0


@dataclass(frozen=True, slots=True)
class NotSent:
    """A task has failed before it could be submitted."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Attached:
    """These workers of an earlier process are ours now; `last` is the highest number of any."""

    workers: tuple[Inherited, ...]
    highest_id: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The future of a task was cancelled."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Report:
    """What one look brought of one worker.

    `run` is None when the look did not tell; `answers` are those not reported before;
    `read` says that they were asked for, `complete` that nothing went wrong in that, and
    `garbled` that the next answers are there, and cannot be read however often one tries.
    `letters_posted` is how many letters with answers the worker says that it has posted, if it
    does; `asked_directly` says that the run was asked for by itself: a list may be out of date.
    `error` is why the answers could not be read, `hopeless` if trying again cannot help.
    """

    worker: WorkerId
    run: Run | None
    answers: tuple[Answer, ...] = ()
    complete: bool = True
    garbled: bool = False
    read: bool = False
    letters_posted: int | None = None
    asked_directly: bool = False
    error: Exception | None = None
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """The platform knows us; `pace` and `ahead` as of a look."""

    pace: float
    ahead: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look brought. `cost` is how many requests it took, those for answers not counted;
    `pace` how many seconds per request the rate limit leaves us; `hold` for how many seconds at the
    most the platform would hold the next look until there is news, 0.0 if it would not; `ahead` how
    many seconds the platform's clock is ahead of the one by which events have times.
    """

    reports: tuple[Report, ...]
    cost: int
    pace: float
    hold: float = 0.0
    ahead: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a call was lost, as far as run and log tell.

    `outside`: others cancelled the run; `unstarted`: the container never ran the worker;
    `timed_out`: the call had had its time.
    """

    run: Run | None
    reason: str
    exit_code: int | None = None
    outside: bool = False
    memory: bool = False
    crashed: bool = False
    unstarted: bool = False
    timed_out: bool = False
    started: float | None = None
    finished: float | None = None
    peak_memory: float | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why calls were lost: of each that the worker was at, by its place among them; -1: at none.

    Others before the last of these had ended, and their answers went with the container; those
    after it had not begun.
    """

    verdicts: tuple[tuple[int, Verdict], ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether to try a call `again`, and the reason in one line."""

    again: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A command was performed. Preparations, looks, diagnoses and judgements bring `news`.

    Done is a `CancelRun` when the platform has taken the request: the run ends later.
    """

    command: Command
    news: Prepared | Looked | Diagnosis | Judgement | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A command could not be performed, or it is not known whether it was.

    `hopeless` if trying again cannot help; `refused` if the platform does not take what was asked
    for, while it takes other requests. Of a failed look nothing follows for any task; of a failed
    launch, that none of its calls was begun.
    """

    command: Command
    error: Exception
    hopeless: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """No more tasks will come: end when the known ones have."""


@dataclass(frozen=True, slots=True)
class TerminateRequested:
    """Stop everything now, or `leave` to others what runs."""

    error: Exception
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Resized:
    """From now on this many calls may run at once."""

    max_workers: int


@dataclass(frozen=True, slots=True)
class CancelsAwaited:
    """A caller waits until no call runs any more that was cancelled."""


@dataclass(frozen=True, slots=True)
class OthersWait:
    """Since when (monotonic) the container of another pool waits for room, if one does."""

    since: float | None


@dataclass(frozen=True, slots=True)
class InboxInDoubt:
    """Another process may have overwritten the inbox: it is written again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Submitted
    | NotSent
    | Attached
    | CancelRequested
    | Done
    | Failed
    | ShutdownRequested
    | TerminateRequested
    | Resized
    | CancelsAwaited
    | OthersWait
    | InboxInDoubt
    | Tick
)

# --- commands: what to do ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepare:
    """Put the bundle and an inbox on the platform."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Put the call of a task on the platform as a File."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a worker with its first calls; if `one_shot`, it ends after them. It runs `processes`
    of its calls at once. `readers` is how many workers share the budget, about; `period` the
    seconds in which one without calls looks once.
    """

    worker: WorkerId
    calls: tuple[Given, ...]
    one_shot: bool = False
    resources: Resources = ANY_RESOURCES
    readers: int = 1
    processes: int = 1
    period: float = 0.25


@dataclass(frozen=True, slots=True)
class LetterContent:
    """For one worker: the calls it has not answered, and whether to stop then; `revoked` are those
    not to begin any more, `ended` those to end even so.
    """

    worker: WorkerId
    calls: tuple[Given, ...] = ()
    stop: bool = False
    revoked: tuple[Given, ...] = ()
    ended: tuple[Given, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteInbox:
    """Write the whole inbox; `workers` is how many share the budget, `period` as in a launch, and
    `lease` how many seconds it stays as it is at the most, if not the lease of the orders.
    """

    letters: tuple[LetterContent, ...]
    workers: int
    period: float = 0.25
    lease: float | None = None


class Reading(Enum):
    """When a look reads the answers of a worker."""

    NEVER = "never"  #: it owes none
    AT_END = "at its end"  #: it posts them just before it ends
    RUNNING = "while it runs"  #: it may have posted some


@dataclass(frozen=True, slots=True)
class Look:
    """See how all these workers are, and read their new answers; ask for some by
    themselves, since a list may be out of date. The platform may wait with its answer for `hold`
    seconds, until there is news.
    """

    workers: tuple[tuple[WorkerId, Reading], ...]
    ask_directly: frozenset[WorkerId] = frozenset()
    hold: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the bytes of an answer that are in a File."""

    task: TaskId
    answer: Answer


@dataclass(frozen=True, slots=True)
class Diagnose:
    """Find out why these calls were lost: `answer` if the worker itself said so, else from the
    run and its log.
    """

    worker: WorkerId
    calls: tuple[Given, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Ask the user's own code whether this end of a call is a reason to try again."""

    task: TaskId
    worker: WorkerId
    cause: Answer | Verdict


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Ask the platform to cancel the run of a worker; if it has none yet, start none."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Recall:
    """Do not start the run of a worker, if its launch is still under way. What comes of it is told
    as of any launch: it is `Done` if this came too late.
    """

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Archive:
    """Archive the script of a worker, which is over."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Settle:
    """End a task with its answer."""

    task: TaskId
    worker: WorkerId
    answer: Answer


@dataclass(frozen=True, slots=True)
class Unmet:
    """A task is not run: this one, of those that it needs, has ended in another way."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Lose:
    """End a task with an error: a verdict about its container, or what made it impossible."""

    task: TaskId
    worker: WorkerId | None
    cause: Verdict | Unmet | Exception


@dataclass(frozen=True, slots=True)
class Again:
    """A task goes back to those that wait: after an attempt that ended so, or with no `cause` if
    what happened was no fault of the call, as far as one can tell.
    """

    task: TaskId
    worker: WorkerId | None = None
    cause: Answer | Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """End a task as cancelled."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class CancelsDone:
    """No call runs any more that was cancelled: wake those who wait for that."""


@dataclass(frozen=True, slots=True)
class Break:
    """The pool takes no more tasks, and this is why."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do, and no more will come; `abandoned` are workers whose end was not
    seen, for this `reason`. Of these, the platform has taken the request to end the `cancelled`.
    """

    abandoned: tuple[WorkerId, ...] = ()
    cancelled: tuple[WorkerId, ...] = ()
    reason: str = ""


Command = (
    Prepare
    | Upload
    | Launch
    | WriteInbox
    | Look
    | Fetch
    | Diagnose
    | Judge
    | CancelRun
    | Recall
    | Archive
    | Settle
    | Lose
    | Again
    | Drop
    | CancelsDone
    | Break
    | Finish
)
