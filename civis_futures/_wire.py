"""What crosses between client and worker, in both directions. Standard library only: this file
travels to the container inside the bundle, and must not know anything else of the package.

Three letters, each JSON::

    Order    client -> worker   with the launch (environment variable ORDER_VARIABLE)
    Inbox    client -> workers  one JSON value for the whole pool; each worker reads its own entry
    Answers  worker -> client   JSONValue outputs of the run, each named by `answers_name`

An inbox is last-write-wins, so it always holds *everything* a worker has not yet answered: reading
it twice or missing one version of it does no harm. Answers are append-only; the same answer may
come twice (a repeated POST), the client takes the first.

Bytes travel as a `Blob`: inline, or as a Platform File; always with their digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Of letters; and of orders for several processes, which workers that know of one must refuse.
WIRE_VERSION, SEVERAL_VERSION = 1, 2

#: The environment variable (and script parameter) that holds the order.
ORDER_VARIABLE = "CIVIS_FUTURES_ORDER"
#: The script parameter of type `file` that names the bundle; Platform adds ``_URL`` for its link.
BUNDLE_VARIABLE = "CIVIS_FUTURES_BUNDLE"
#: Where a run's way to its platform is, if it says; else it is the client's. (Civis: not known.)
ENDPOINT_VARIABLE = "CIVIS_API_ENDPOINT"
#: The certificates (as PEM) that alone are believed there.
CA_CERTS_VARIABLE = "CIVIS_FUTURES_CA_CERTS"

#: The attribute of a ModuleNotFoundError that says what is required of the module: "numpy>=2.1".
REQUIREMENT = "civis_futures_requirement"
#: The line in a reused worker's log at which a call begins (`begin_line`): its task and attempt,
#: and in which process of the worker, if that has several.
BEGIN_LINE = re.compile(r"civis_futures: task (\d+) begins \(attempt (\d+)(?:, process (\d+))?\)$")
#: The line there after which what a process prints goes on, and the task that it is at.
GO_ON_LINE = re.compile(r"civis_futures: (?:task (\d+)|process \d+) goes on$")
#: The last line in the log of a worker whose lease is over, and of one with nothing to do.
SILENCE = "civis_futures: no word from the client, this worker ends"
IDLE_SILENCE = "civis_futures: no word from the client and nothing to do, this worker ends"
#: The last line of one that the platform has started again within its run.
STARTED_AGAIN = "civis_futures: the platform has started this container again, this worker ends"
#: Exit codes: `setup_cmd` failed (EX_CONFIG of sysexits.h); the worker's program was not fetched.
SETUP_FAILED, NO_PROGRAM = 78, 79
#: How the name of a script ends that has stood for the holder of a session, and does so no more.
TAKEN = " taken"
# Bytes. Platform takes 1,000,000 in one JSON value, and Linux 128 kB in one environment variable.
#: What one JSON value may hold; the rest is headroom.
JSON_VALUE_LIMIT = 900_000
#: Bytes above this size travel as a File and not inline in JSON (before base64); and how much the
#: calls that travel inline may take if each worker has one.
INLINE_LIMIT, INLINE_TOTAL = 64_000, 600_000
#: How many bytes the calls of all workers in the inbox may take, those in one order, and all of an
#: order that does not travel as a File.
INBOX_CALLS, ORDER_CALLS, ORDER_LIMIT = 800_000, 80_000, 100_000
#: Bytes that a call takes in a packed letter besides its own, and that each buffer's name takes.
CALL_OVERHEAD, BUFFER_NAME = 150, 160
#: Characters of one line of output in an error.
LINE_LIMIT = 500
#: What no number of an answer reaches: seconds since the epoch are less.
_LARGEST = 1e15
#: How a compressed letter begins, and from how many characters on it is worth it.
_PACKED, _LONG = "z:", 2000
#: What a template is given in a File: an order within a pickle, which says
#: (functools.partial(exec, START, {"order": ..., "program": ...}), "sequential"). Templates that
#: are made for civis.parallel run civis-python's worker: it unpickles a function and the name of a
#: backend, and calls it. In protocol 0 a text is one line, so our own worker unpickles nothing.
_PICKLE_BEGINS, _PICKLE_ENDS = "(cfunctools\npartial\n(cbuiltins\nexec\nV", "\ndtRVsequential\nt."
_ORDER_BEGINS, _PROGRAM_BEGINS = "\n(Vorder\nV", "\nVprogram\nV"
# The process becomes our worker: so a TERM reaches that, and its exit code is the container's.
_START = f"""\
import os, sys
os.environ["{ORDER_VARIABLE}"] = order
sys.stdout.flush()
sys.stderr.flush()
os.execv(sys.executable, [sys.executable, "-c", program])
"""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def inline_limit(max_workers: int) -> int:
    """How many bytes a call may have that travels inline, in a pool of this many workers."""
    return min(INLINE_LIMIT, INLINE_TOTAL // max_workers)


class WireError(ValueError):
    """A letter that does not say what it should, or bytes that do not match their digest."""


def digest(data: bytes | memoryview) -> str:
    """The SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def code_folder(digests: set[str]) -> str:
    """What a worker calls the folder with the modules of these zips, as tracebacks tell."""
    return f"code-{digest(' '.join(sorted(digests)).encode())[:16]}"


def answers_name(worker: str, number: int) -> str:
    """The name of the JSON value with the `number`-th answers of a worker."""
    return f"civis_futures.answers.{worker}.{number}"


def answers_number(name: str, worker: str) -> int | None:
    """Which answers of this worker a JSON value of that name has, if any."""
    digits = name.removeprefix(answers_name(worker, 0)[:-1])
    return int(digits) if name != digits and digits.isascii() and digits.isdecimal() else None


def begin_line(task: int, attempt: int, process: int = 0) -> str:
    """What is printed where a call begins, for `BEGIN_LINE`; `process` if there are several."""
    more = f", process {process}" if process else ""
    return f"civis_futures: task {task} begins (attempt {attempt}{more})"


_SCRIPT_NAME = re.compile(
    r"(?P<pool>.*?)(, session (?P<session>[A-Za-z0-9 ._-]+))?, worker (?P<worker>\d+) "
    r"\[(?P<token>[0-9a-f]{16})-[0-9a-f]{8}\]( #\d+)?",
    re.DOTALL,
)


class ScriptName(NamedTuple):
    """What the name of a worker's script says: its pool, session (None: it has none) and number
    there, and its token.
    """

    pool: str
    session: str | None
    worker: int
    token: str

    @classmethod
    def parsed(cls, name: str) -> ScriptName | None:
        """Of a script that may be anybody's: None if it is not ours."""
        match = _SCRIPT_NAME.fullmatch(name)
        if match is None:
            return None
        return cls(match["pool"], match["session"], int(match["worker"]), match["token"])


def pool_name(name: str, session: str | None) -> str:
    """How the names of a pool's scripts begin."""
    return f"{name}, session {session}" if session else name


def script_name(pool: str, worker: int, token: str, launch: str) -> str:
    """A worker's script, as `ScriptName.parsed` reads it; `pool` is as of `pool_name`. What makes
    it unique on Platform are `token` (16 hexadecimal digits) and `launch` (8).
    """
    return f"{pool}, worker {worker} [{token}-{launch}]"


def counted(name: str, letters: int) -> str:
    """The name of a worker's script when it has posted this many letters with answers. So a list of
    scripts tells of all workers, in one request, which of them has news.
    """
    return f"{name} #{letters}"


def count_in(name: str) -> int | None:
    """How many letters the name of a script tells of, if it does."""
    digits = name.rpartition(" #")[2]
    return int(digits) if digits.isdecimal() else None


@dataclass(frozen=True)
class Blob:
    """Bytes on their way: `inline` as base64, or in the File `file_id`; `size` in bytes."""

    sha256: str
    size: int
    inline: str | None = None
    file_id: int | None = None

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """An inline blob."""
        return cls(digest(data), len(data), inline=base64.b64encode(data).decode("ascii"))

    @classmethod
    def in_file(cls, file_id: int, sha256: str, size: int) -> Blob:
        """A blob whose bytes are in a File."""
        return cls(sha256, size, file_id=file_id)

    def check(self, data: bytes) -> bytes:
        """`data`, if it is what this blob announced; WireError otherwise."""
        if len(data) != self.size or digest(data) != self.sha256:
            where = "inline" if self.file_id is None else f"in File {self.file_id}"
            same = len(data) == self.size
            what = "another SHA-256" if same else f"{len(data):,} bytes for {self.size:,}"
            raise WireError(f"the bytes {where} are not those that were sent: {what}")
        return data

    def inline_data(self) -> bytes:
        """The bytes of an inline blob, checked."""
        return self.check(base64.b64decode(self.inline or ""))


@dataclass(frozen=True)
class Call:
    """A task on its way out.

    `data` is the pickled (function, args, kwargs), or (function, rows of args), which is answered
    by the list of the results. `attempt` tells apart the times that a task was given away: the
    same worker may get it again after it was lost. `timeout`: seconds that it may run. `buffers`
    are Files with the pickle's out-of-band buffers, in its order; a worker keeps these for later
    calls. `key` tells what is called, in a session; the answer says it again. The last `code` of
    the buffers are zips with modules of the user's, to be found before those of the image.
    """

    task: int
    data: Blob
    attempt: int = 1
    timeout: float | None = None
    buffers: tuple[Blob, ...] = ()
    key: str = ""
    code: int = 0


@dataclass(frozen=True)
class Letter:
    """What one worker shall know: the calls it has not yet answered, and whether to stop then.

    `revoked` are (task, attempt) of calls that it must not begin any more, and `ended` of those
    that it must end even if they run; it answers them all.
    """

    calls: tuple[Call, ...] = ()
    stop: bool = False
    revoked: tuple[tuple[int, int], ...] = ()
    ended: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Order:
    """What a worker is given at its launch.

    `url` is the base of the API; `name` that of the script; `python` the client's version
    ("3.11"); `inbox` the JSON value to poll, or None for a worker that answers `letter` and ends;
    `initializer` the pickled (function, args, kwargs) to run first in each process, with its
    buffers, of which the last `initializer_code` are modules as of a call; `disk` the container's
    disk, in MB, and `cores` how many it was asked for (0: not known); `processes` how many calls
    it answers at once; one that `greets` shows in the name of the script at once that it can change
    it; `holder` as in the inbox; `key` is what answers are sealed with, a secret. In seconds:
    `poll` is the longest pause between two looks at the inbox (for a worker without calls that part
    of each which is its `turn`), `linger` how long an answer may wait for others before they are
    posted together, `lease` how long the inbox may stay as it is: then nobody is there; `idle` is
    that for a worker without calls, from the last one on.
    """

    worker: str
    url: str
    python: str
    letter: Letter
    inbox: int | None = None
    initializer: Blob | None = None
    initializer_buffers: tuple[Blob, ...] = ()
    poll: float = 10.0
    linger: float = 0.5
    lease: float = 3600.0
    idle: float | None = None
    disk: float = 1000.0
    name: str = ""
    greets: bool = False
    holder: int = 0
    key: str = field(default="", repr=False)
    initializer_code: int = 0
    cores: float = 0.0
    processes: int = 1
    turn: float = 0.0
    version: int = WIRE_VERSION


@dataclass(frozen=True)
class Inbox:
    """The client's one JSON value: worker token -> letter. A worker not named has no news.

    `poll`, `linger` and `lease` replace those of the order (the first workers cannot read `lease`,
    so it is left out while it is None); `beat` changes with each version: a sign of life. `holder`
    is the script that stands for the process that wrote this, if others may want to: once its name
    ends in `TAKEN`, nothing that it says counts any more. A worker whose order is from another
    holder may go on if it is named.
    """

    letters: dict[str, Letter] = field(default_factory=dict)
    poll: float | None = None
    linger: float | None = None
    beat: int = 0
    holder: int = 0
    lease: float | None = None
    version: int = WIRE_VERSION


#: How a call ended. The first two are the function's own doing; `Answer.text` explains the others.
RETURNED = "returned"
RAISED = "raised"
CALL_NOT_FETCHED = "call not fetched"
CALL_UNPICKLING = "call unpickling"
OUTCOME_PICKLING = "outcome pickling"
MISSING_MODULE = "missing module"
PYTHON_MISMATCH = "python mismatch"
INITIALIZER = "initializer"
CRASHED = "crashed"
MEMORY = "memory"
TIMED_OUT = "timed out"
REVOKED = "revoked"
REFUSED = "refused"  # another worker may do it; `detail` is what its `UnmetDependency` says
#: The `detail` of an answer to a batch that has an outcome for each row: (header, pickle) pairs.
ROWS = "rows"


@dataclass(frozen=True)
class Frame:
    """A place in the text of a traceback, where code is named that came by value: its file is the
    client's, and so is its source.

    What is said of it begins at the character `at` of the text, and has `length` characters, of
    which the first `indent` stand before each of its lines. `key` is the `code_key` of the code.
    `column` and `end_column`, in bytes, are what failed in the lines from `line` to `end_line`, if
    that is known.
    """

    at: int
    length: int
    indent: int
    file: str
    key: str
    line: int
    end_line: int | None = None
    column: int | None = None
    end_column: int | None = None


@dataclass(frozen=True)
class Answer:
    """How one call ended; `task`, `attempt` and `key` are those of the call.

    `kind` is one of the constants above; `data` the pickled result or exception (None where there
    is none); `text` a traceback or a reason for people; `detail` the missing module, the worker's
    Python version or the exit code, by kind. `started` and `finished` are seconds since the epoch
    by the container's clock, `seconds` the compute alone, `importing` and `unpickling` those before
    it (imports that happen during the unpickling count as the former), `upload` those that the
    outcome took into its File, `peak_mb` the peak memory of the process during the call
    (where the container's kernel cannot tell that: so far). `log` is what a call that failed
    printed last, line by line. `frames` are those of the text that lack their source. `seal`
    shows that the bytes are from whom the order was given to.
    """

    task: int
    kind: str
    data: Blob | None = None
    text: str = ""
    detail: str = ""
    attempt: int = 1
    started: float = 0.0
    finished: float = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0
    log: tuple[str, ...] = ()
    key: str = ""
    importing: float = 0.0
    unpickling: float = 0.0
    upload: float = 0.0
    frames: tuple[Frame, ...] = ()
    seal: str = ""

    @property
    def busy(self) -> float:
        """For how many seconds the worker could do nothing else."""
        loading = self.importing + self.unpickling
        return loading + max(self.finished - self.started, 0.0) + self.upload


@dataclass(frozen=True)
class Answers:
    """Answers of one worker, in the order in which the calls ended."""

    worker: str
    answers: tuple[Answer, ...]
    version: int = WIRE_VERSION


def checked(answer: Answer) -> Answer:
    """The answer, if its numbers are numbers and its texts texts; WireError otherwise."""
    numbers = (
        answer.started, answer.finished, answer.seconds, answer.peak_mb, answer.importing,
        answer.unpickling, answer.upload,
    )  # fmt: skip
    texts = answer.kind, answer.text, answer.detail, answer.key, answer.seal, *answer.log
    if not type(answer.task) is type(answer.attempt) is int:
        raise WireError("not an answer: no task")
    if not ({*map(type, numbers)} <= {int, float} and sum(map(abs, numbers)) < _LARGEST):
        raise WireError("not an answer: what should be a number is none, or has no bound")
    if {*map(type, texts)} != {str}:
        raise WireError("not an answer: what should be a text is none")
    return answer


def sealed(answer: Answer, worker: str, key: str) -> Answer:
    """The answer with its seal: an HMAC of which call it is of, how that ended and what is said of
    it, and the digest of its bytes. Without a `key` there is none.
    """
    return made({**vars(answer), "seal": _seal(answer, worker, key)}) if key else answer


def _seal(answer: Answer, worker: str, key: str) -> str:
    import hmac  # not before there is an answer

    data = "" if answer.data is None else answer.data.sha256
    told = answer.task, answer.attempt, answer.kind, answer.key, answer.detail, answer.text
    return hmac.digest(key.encode(), ascii((worker, *told, data)).encode(), "sha256").hex()


def is_sealed(answer: Answer, worker: str, key: str) -> bool:
    """Whether it has the seal that it must have; without a `key` it needs none."""
    import hmac

    said = answer.seal.encode()
    return not key or hmac.compare_digest(_seal(answer, worker, key).encode(), said)


#: Left out of a letter where it says nothing: workers of earlier versions refuse unknown fields.
_UNSAID: dict[type, str] = {Call: "code", Inbox: "lease", Order: "processes"}


def to_json(letter: Order | Inbox | Answers) -> str:
    """A letter as JSON text (ASCII, no spaces)."""
    # `asdict` copies all of it first, which takes five times as long.
    return json.dumps(letter, separators=(",", ":"), default=_fields)


def _fields(part: Any) -> dict[str, Any]:
    """What is said of a part of a letter."""
    said: dict[str, Any] = vars(part)
    key = _UNSAID.get(type(part))
    if key is None or said[key] != getattr(type(part), key):
        return said
    return {each: said[each] for each in said if each != key}


def packed(letter: Order | Inbox | Answers) -> str:
    """A letter as text, compressed if it is long: calls of one function have most of it in common,
    so that a thousand take 80 bytes each and not 900.
    """
    text = to_json(letter)
    if len(text) < _LONG:
        return text
    return _PACKED + base64.b64encode(zlib.compress(text.encode("ascii"), 1)).decode("ascii")


def answers_text(letter: Answers) -> str:
    """Answers as the text of a JSON value: what many have in common is compressed."""
    return json.dumps(packed(letter)) if len(letter.answers) > 1 else to_json(letter)


def for_template(order: str, program: str) -> bytes:
    """An order (a text in ASCII) as a call of civis.parallel's, which starts `program` with it."""
    start, order, program = map(_pickled_text, (_START, order, program))
    return (
        f"{_PICKLE_BEGINS}{start}{_ORDER_BEGINS}{order}{_PROGRAM_BEGINS}{program}{_PICKLE_ENDS}"
    ).encode("ascii")


def order_for_template(content: str) -> str:
    """The order in what `for_template` has made; of anything else, that itself."""
    if not content.startswith(_PICKLE_BEGINS):
        return content
    order = content.partition(_ORDER_BEGINS)[2].partition(_PROGRAM_BEGINS)[0]
    return order.replace(_BACKSLASH, "\\")  # there are no lines in it


#: How a pickle of protocol 0 has a backslash in a text; it is what begins each escape.
_BACKSLASH = "\\u005c"


def _pickled_text(text: str) -> str:
    return text.replace("\\", _BACKSLASH).replace("\n", "\\u000a")


def order_from_json(text: str) -> Order:
    """The order that `text` holds; WireError if it holds none."""
    value = _object(text)
    try:
        value["letter"] = _letter(value["letter"])
        value["initializer"] = _blob(value["initializer"])
        value["initializer_buffers"] = tuple(Blob(**x) for x in value["initializer_buffers"])
        return Order(**_known(Order, value))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not an order: {error}") from error


def inbox_from_json(value: Any, worker: str | None = None) -> Inbox:
    """The inbox that a JSON value (text, or already decoded) holds; WireError if it holds none.
    If a worker is named, the letters of all others are empty: they are not even understood.
    """
    value = _object(value)
    try:
        letters = value["letters"].items()
        value["letters"] = {k: _letter(v) if worker in (None, k) else Letter() for k, v in letters}
        return Inbox(**_known(Inbox, value))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not an inbox: {error}") from error


def answers_from_json(value: Any) -> Answers:
    """The answers that a JSON value (text, or already decoded) holds; WireError if none. What a
    worker of another version says besides is left: a session may go on with such.
    """
    value = _object(value)
    try:
        if not (isinstance(value["worker"], str) and isinstance(value["answers"], list)):
            raise WireError("not answers: a name and a list are missing")
        answers = tuple(map(_answer, value["answers"]))
        return Answers(**{**_known(Answers, value), "answers": answers})
    except (AttributeError, KeyError, TypeError) as error:
        raise WireError(f"not answers: {error}") from error


def next_turn(turn: float, period: float, after: float) -> float:
    """When it is next the turn of who has this part of each period, in seconds of the platform."""
    first = turn * period
    return first + period * (math.floor((after - first) / period) + 1)


def shown(line: str) -> str:
    """A line of output as a terminal shows it: of a progress bar, its last state; not too long."""
    return clipped(line.rstrip("\r").rpartition("\r")[2], LINE_LIMIT)


def clipped(text: str, limit: int) -> str:
    """The text, with its middle left out if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    kept = limit // 2
    left_out = f"... ({len(text) - 2 * kept:,} characters left out) ..."
    return f"{text[:kept]}{left_out}{text[-kept:]}"


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            if value.startswith(_PACKED):
                value = zlib.decompress(base64.b64decode(value[len(_PACKED) :]))
            value = json.loads(value)
        except (ValueError, zlib.error) as error:
            raise WireError(f"not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("version") not in (WIRE_VERSION, SEVERAL_VERSION):
        raise WireError(f"not a letter of version {WIRE_VERSION}")
    return dict(value)


def _answer(value: dict[str, Any]) -> Answer:
    frames = tuple(Frame(**_known(Frame, frame)) for frame in value.get("frames", ()))
    data, log = _blob(value["data"]), tuple(value["log"])
    return checked(made({**_known(Answer, value), "data": data, "log": log, "frames": frames}))


def made(fields: dict[str, Any]) -> Answer:
    """An answer of these. (The constructor of what is frozen takes ten times as long.)"""
    answer = object.__new__(Answer)
    vars(answer).update(fields)
    return answer


def _known(kind: type[Any], value: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of it."""
    if value.keys() <= kind.__dataclass_fields__.keys():
        return value
    return {name: value[name] for name in value.keys() & kind.__dataclass_fields__.keys()}


def _blob(value: dict[str, Any] | None) -> Blob | None:
    return None if value is None else Blob(**value)


def _letter(value: dict[str, Any]) -> Letter:
    calls = tuple(_call(call) for call in value["calls"])
    revoked, ended = (
        tuple((int(task), int(attempt)) for task, attempt in value[name])
        for name in ("revoked", "ended")
    )
    return Letter(calls, bool(value["stop"]), revoked, ended)


def _call(value: dict[str, Any]) -> Call:
    buffers = tuple(Blob(**blob) for blob in value["buffers"])
    return Call(**{**_known(Call, value), "data": Blob(**value["data"]), "buffers": buffers})
