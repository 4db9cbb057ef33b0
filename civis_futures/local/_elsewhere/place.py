"""Runs as jobs of a scheduler: each has an agent, which fetches its order and tells us the rest.

The agent's word comes first. What the scheduler says counts where the agent is silent, and where a
signal ended the run that we have not sent: then only the scheduler knows why. Jobs are known by
their names, which are unique, so that a submission whose outcome is not known is not made
twice, and none is forgotten. All of it happens on the event loop's thread, but for the calls of the
scheduler, which are made in two lanes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import secrets
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from .._places.place import Ending, LaunchPlan, Line, RunListener
from .._schema.exchange import ApiError
from .._settings import KEY_VARIABLE, MILLICORES
from .._state import Platform
from . import verdict
from .commands import AskingThread, Commands
from .scheduler import AwayError, JobRequest, JobScheduler, JobSeen, SubmitRefusedError
from .script import start_script

LONGEST_WAIT = 10.0  # seconds for which an agent waits for our word, at most
REPORTS = 100  # a second, of all agents together: the more there are, the rarer each one's
PATIENCE = 10.0  # seconds after which what its agent should have ended is ended by the scheduler
AGAIN = 30.0  # seconds, at most, between two tries with a scheduler that does not answer
ENDING = 30.0  # seconds for which a job may be seen whose run is over
LEASES = 3.0  # leases of silence after which a run is lost, whatever the scheduler says
CLOSE = 1.5  # seconds, twice: for the submission under way, and for the last command


@dataclasses.dataclass
class Remote:
    """One run that was given to the scheduler."""

    plan: LaunchPlan
    key: str  # its own, for the API
    agent_key: str
    name: str  # of its job
    job: str | None = None  # the job's id, when it is known
    since: float = math.inf  # when that became known (monotonic)
    unsure: bool = False  # it is not known whether there is a job
    agent: str | None = None  # the agent that has its order
    begun: float = 0.0  # seconds since the epoch
    heard: float = 0.0  # when it last said something (monotonic)
    received: int = 0  # lines
    word: str = "go"  # what the agent is to do
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    termed: bool = False  # the agent was sent a TERM that was not ours
    ending: Ending | None = None  # the agent's word
    asked: int = 0  # looks since then
    waits_for: str | None = None


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How a platform works with its scheduler."""

    label: str  # what users call the scheduler
    name: str  # how the names of its jobs begin
    url: str  # where agents find us
    umask: int
    pause: float  # seconds between two looks, at least
    lease: float  # seconds after which an agent ends when we do not answer
    setup: str = ""  # what jobs do before anything else, for the machine's shell
    certificate: str | None = None  # the one that agents trust
    durable: bool = False  # whether jobs are left to the next server


class Elsewhere:
    """The machines of a scheduler."""

    def __init__(
        self,
        platform: Platform,
        scheduler: JobScheduler,
        commands: Commands,
        conditions: Conditions,
    ) -> None:
        self._platform = platform
        self._scheduler = scheduler
        self._commands = commands
        self._label = conditions.label
        self._url = conditions.url
        self._pause = conditions.pause
        self._lease = conditions.lease
        self._conditions = conditions
        # What runs elsewhere is not for this machine's guard to end, even where that is the same
        # machine: it finds processes by this mark.
        platform.keys.mark = secrets.token_hex(8)
        self._listener: RunListener
        self._remotes: dict[int, Remote] = {}
        # Names of jobs whose run is over, which end by themselves: ids, since when (monotonic).
        self._over: dict[str, tuple[str | None, float]] = {}
        self._to_end: dict[str, str] = {}  # ids of jobs, with their names
        self._doubtful = False  # whether there may be jobs of which we know no run
        self._loop = asyncio.get_running_loop()
        self._submits = AskingThread("civis-local-submit")
        self._looks = AskingThread("civis-local-look")
        self._timer: asyncio.TimerHandle | None = None
        self._looking = False
        self._last_look = 0.0  # when the last one began (monotonic)
        self._failures = 0  # of looks, in a row
        self._closed = False

    # What the runner asks.

    def check(self) -> None:
        """What is needed was looked for when the scheduler was made."""

    def attach(self, listener: RunListener) -> None:
        """Say who is told."""
        self._listener = listener

    def fits(self, plan: LaunchPlan) -> bool:  # noqa: ARG002
        """Return True: the scheduler has a queue of its own."""
        return True

    def start(self, plan: LaunchPlan, key: str) -> None:
        """Submit a job for it."""
        if plan.command is None:
            why = "The container could not be started: the script has no dockerCommand"
            self._listener.ended(plan.run_id, Ending(why=f"{why}, and {self._label} has no images"))
            return
        if plan.repository is not None:
            note = f"This platform does not clone {plan.repository}: there is no /app."
            self._say(plan.run_id, note)
        # A run that was restarted has had another job.
        name = f"{self._conditions.name}-{plan.run_id}-{secrets.token_hex(2)}"
        remote = Remote(plan, key, f"local-agent-{secrets.token_hex(24)}", name)
        self._add(remote)
        self._keep(remote)
        self._submit(remote)

    def alive(self, run_id: int) -> bool:
        """Return whether its agent has come, and has not told its end."""
        remote = self._remotes.get(run_id)
        return remote is not None and remote.agent is not None and remote.ending is None

    def terminate(self, run_id: int) -> None:
        """End its job if it has not begun; else let the agent send TERM, and later KILL."""
        remote = self._remotes[run_id]
        if remote.agent is None:
            self._finish(remote, Ending())
        else:
            self._tell(remote, "term")
            patience = remote.plan.cancel_timeout + PATIENCE
            self._loop.call_later(patience, self._end_job, remote)

    def kill(self, run_id: int) -> None:
        """Let its agent end it at once."""
        remote = self._remotes[run_id]
        self._tell(remote, "kill")
        self._loop.call_later(PATIENCE, self._end_job, remote)

    def freeze(self, run_id: int) -> bool:
        """Let its agent stop it."""
        self._tell(self._remotes[run_id], "stop")
        return True

    def go_on(self, run_id: int) -> None:
        """Let its agent continue it."""
        remote = self._remotes.get(run_id)
        if remote is not None and remote.word == "stop":
            self._tell(remote, "go")

    def pids(self) -> dict[int, list[int]]:
        """Return the runs that have begun; their processes are on other machines."""
        return {run_id: [] for run_id, remote in self._remotes.items() if remote.agent is not None}

    def adopt(self, plan: LaunchPlan, key: str, note: str) -> bool:
        """Go on with a run whose agent finds us where it looks for us; end another one's job."""
        kept = json.loads(note)
        remote = Remote(plan, key, kept["agent_key"], kept["name"], kept["job"])
        if kept["url"] != self._url:
            self._give_up(remote)
            return False
        remote.agent, remote.received = kept["agent"], kept["received"]
        remote.heard, remote.since = time.monotonic(), time.monotonic()
        remote.begun, remote.unsure = kept["begun"], remote.job is None
        self._add(remote)
        return True

    def close(self) -> Collection[int]:
        """Leave the jobs to the next server, if there may be one; else end them."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._submits.close(CLOSE, drop=True)
        left = list(self._remotes) if self._conditions.durable else []
        if not self._conditions.durable:
            for remote in self._remotes.values():
                self._give_up(remote)
            # Their agents may not know yet that they have told their ends.
            self._to_end |= {job: name for name, (job, _) in self._over.items() if job}
        if self._to_end:
            to_end = dict(self._to_end)
            self._looks.do(lambda: self._end_jobs(to_end), lambda *_: None)
            self._looks.do(self._commands.close, lambda *_: None)
        self._looks.close(CLOSE, drop=False)
        self._commands.close()
        return left

    # What agents ask; see `endpoints`.

    def give_order(self, run_id: int, agent: str, host: str) -> dict[str, Any]:
        """Give a run to the first agent that asks; the answer may be asked for again."""
        remote = self._remotes[run_id]
        if remote.agent is None:
            remote.agent, remote.begun = agent, time.time()
            self._keep(remote)
            job = "" if remote.job is None else f", job {remote.job}"
            self._listener.begun(run_id, f"{host}{job}")
        self._heard(remote, agent)
        own = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", KEY_VARIABLE: remote.key}
        return {
            "command": remote.plan.command,
            "environment": {**own, **remote.plan.environment},
            "memory": remote.plan.memory,
            "cancel_timeout": remote.plan.cancel_timeout,
            "umask": self._conditions.umask,
        }

    def take_report(
        self, run_id: int, agent: str, first: int, lines: list[Line], *, termed: bool
    ) -> dict[str, Any]:
        """Keep what was printed, once, and note a TERM; the answer is for the agent."""
        remote = self._remotes[run_id]
        self._heard(remote, agent)
        new = lines[max(0, remote.received - first) :]
        if new:
            now = time.time()
            # Another machine's clock may be wrong.
            at = [(min(max(when, remote.begun), now), level, text) for when, level, text in new]
            remote.received = first + len(lines)
            self._listener.printed(run_id, at)
            self._keep(remote)
        if termed and remote.word in ("go", "stop") and not remote.termed:
            remote.termed = True
            self._look_soon()
        begun = sum(other.agent is not None for other in self._remotes.values())
        return {"word": remote.word, "pause": max(0.1, begun / REPORTS)}

    def take_ending(self, run_id: int, ending: Ending) -> None:
        """Note how a run ended; where the scheduler knows better, it is asked first."""
        remote = self._remotes[run_id]
        remote.ending = ending
        if verdict.is_clear(ending, ours=remote.word in ("term", "kill"), termed=remote.termed):
            self._finish(remote, ending)
        else:
            self._look_soon()

    async def word(self, run_id: int, agent: str, known: str) -> str:
        """Return what an agent is to do, as soon as that is not what it knows; or after a while."""
        remote = self._remotes[run_id]
        self._heard(remote, agent)
        if remote.word == known and not self._closed:
            wait = min(LONGEST_WAIT, self._lease / 4)
            changed = remote.changed
            _, pending = await asyncio.wait([asyncio.ensure_future(changed.wait())], timeout=wait)
            for waiting in pending:
                waiting.cancel()
            remote.heard = time.monotonic()
        return remote.word

    def leave(self) -> None:
        """Answer all agents that wait: the server is about to stop."""
        self._closed = True
        for remote in self._remotes.values():
            if not self._conditions.durable:
                remote.word = "kill" if remote.word == "kill" else "term"
            remote.changed.set()

    def _heard(self, remote: Remote, agent: str) -> None:
        if remote.agent != agent:
            raise ApiError(409, "conflict", "Another agent has this run.")
        remote.heard = time.monotonic()

    # Jobs.

    def _add(self, remote: Remote) -> None:
        run_id = remote.plan.run_id
        self._remotes[run_id] = remote
        self._platform.keys.agents[remote.agent_key] = run_id
        self._look_later()

    def _keep(self, remote: Remote) -> None:
        names = ("agent_key", "name", "job", "agent", "begun", "received")
        kept = {name: getattr(remote, name) for name in names}
        self._listener.keep(remote.plan.run_id, json.dumps({**kept, "url": self._url}))

    def _say(self, run_id: int, text: str) -> None:
        self._listener.printed(run_id, [(time.time(), "info", text)])

    def _submit(self, remote: Remote) -> None:
        script = start_script(
            self._url,
            remote.agent_key,
            self._lease,
            certificate=self._conditions.certificate,
            setup=self._conditions.setup,
        )
        cores = max(1, -(-remote.plan.cpu // MILLICORES))
        job = JobRequest(remote.name, script, cores, remote.plan.memory)

        def submit() -> None:
            remote.job = self._scheduler.submit(job)  # here, so that `close` knows of it

        remote.unsure = False
        self._submits.do(submit, lambda _, error: self._submitted(remote, error))

    def _submitted(self, remote: Remote, error: Exception | None) -> None:
        run_id = remote.plan.run_id
        remote.since = time.monotonic()
        wanted = self._remotes.get(run_id) is remote
        if not wanted:
            if remote.job is not None:
                self._give_up(remote)
        elif remote.job is not None:
            self._keep(remote)
        elif isinstance(error, AwayError):
            remote.unsure = True
            self._say(run_id, f"{self._label} does not answer; this is tried again: {error}")
            self._look_later()
        else:
            said = error if isinstance(error, SubmitRefusedError) else repr(error)
            self._finish(remote, Ending(why=f"{self._label} refused this job: {said}"))

    def _tell(self, remote: Remote, word: str) -> None:
        if remote.word != "kill":
            remote.word = word
            remote.changed.set()
            remote.changed = asyncio.Event()

    def _finish(self, remote: Remote, ending: Ending) -> None:
        """Tell a run's end; its job, if it is still there, ends soon."""
        run_id = remote.plan.run_id
        del self._remotes[run_id]
        self._platform.keys.agents.pop(remote.agent_key, None)
        remote.changed.set()
        if remote.ending is None:
            self._give_up(remote)
        else:
            self._over[remote.name] = remote.job, time.monotonic()
        self._listener.ended(run_id, ending)

    def _end_job(self, remote: Remote) -> None:
        if self._remotes.get(remote.plan.run_id) is remote and remote.ending is None:
            self._give_up(remote)

    def _give_up(self, remote: Remote) -> None:
        """End a job, now, or when it is known that there is one."""
        if remote.job is not None:
            self._to_end[remote.job] = remote.name
        self._doubtful |= remote.unsure
        self._look_soon()

    # Looks.

    def _look_soon(self) -> None:
        """Look as soon as the pause since the last look is over."""
        self._look_in(self._last_look + self._pause - time.monotonic())

    def _look_later(self) -> None:
        if self._timer is None:
            self._look_in(self._pause)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._closed and not self._looking:
            self._timer = self._loop.call_later(max(0.0, seconds), self._look)

    def _look(self) -> None:
        self._timer = None
        self._looking = True
        began = self._last_look = time.monotonic()
        to_end = dict(self._to_end)
        self._doubtful = False
        self._looks.do(
            lambda: self._end_jobs(to_end),
            lambda seen, error: self._looked(seen, error, to_end, began),
        )

    def _end_jobs(self, to_end: Mapping[str, str]) -> Mapping[str, JobSeen]:
        """In a thread: look, and end these jobs. A controller that was restored from an older state
        gives ids again: so only those that still have the name that they had.
        """
        found = self._scheduler.look()
        ids = [
            job
            for job, name in sorted(to_end.items())
            if job in found
            and found[job].name == name
            and found[job].state in ("waiting", "running")
        ]
        if ids:
            self._scheduler.end(ids)
        return found

    def _looked(
        self,
        found: Mapping[str, JobSeen] | None,
        error: Exception | None,
        ended: Mapping[str, str],
        began: float,
    ) -> None:
        self._looking = False
        if self._closed:
            return
        if error is None:
            self._failures = 0
            for job in ended:
                self._to_end.pop(job, None)
        else:
            self._failures += 1
            self._doubtful = True
            if self._failures in (1, 10, 100):
                print(f"{self._label} does not answer: {error!r}", file=sys.stderr)
        if found is not None:
            self._end_strays(found)
        names = {} if found is None else {seen.name: job for job, seen in found.items()}
        for remote in list(self._remotes.values()):
            self._compare(remote, found, names, began)
        if self._remotes or self._to_end or self._doubtful:
            self._look_in(min(AGAIN, self._pause * 2**self._failures))

    def _end_strays(self, found: Mapping[str, JobSeen]) -> None:
        """End jobs of ours that no run needs: of a submission that seemed to fail, for example."""
        known = {remote.name for remote in self._remotes.values()}
        late = time.monotonic() - ENDING
        self._over = {name: over for name, over in self._over.items() if over[1] > late}
        self._to_end |= {
            job: seen.name
            for job, seen in found.items()
            if seen.name.startswith(f"{self._conditions.name}-")
            and seen.state in ("waiting", "running")
            and seen.name not in known
            and seen.name not in self._over
        }

    def _compare(
        self,
        remote: Remote,
        found: Mapping[str, JobSeen] | None,
        names: Mapping[str, str],
        began: float,
    ) -> None:
        """Do what a look says of one run; `found` is None if there was no answer."""
        silent = time.monotonic() - remote.heard if remote.agent is not None else 0.0
        if found is None:
            if silent > LEASES * self._lease:
                self._finish(remote, Ending(why=verdict.silent(silent)))
            return
        if remote.unsure and remote.name in names:
            remote.job, remote.unsure = names[remote.name], False
            self._keep(remote)
        if remote.unsure:
            self._submit(remote)
        elif remote.job is not None and remote.since < began:
            seen = found.get(remote.job)
            if seen is None or seen.name != remote.name:
                seen = JobSeen("lost", why=f"{self._label} knows no such job")
            self._compare_job(remote, seen, silent)

    def _compare_job(self, remote: Remote, seen: JobSeen, silent: float) -> None:
        if remote.ending is not None:
            remote.asked += 1
        if seen.state == "waiting" and remote.agent is None:
            if seen.why != remote.waits_for:
                remote.waits_for = seen.why
                self._say(remote.plan.run_id, f"{self._label}: job {remote.job} waits ({seen.why})")
        elif remote.ending is not None:
            if seen.state not in ("waiting", "running") or remote.asked > verdict.MOST_ASKED:
                self._finish(remote, verdict.both(remote.ending, seen))
        elif seen.state == "waiting":
            # Somebody has put it back into the queue: its next agent would find the run taken.
            self._finish(remote, Ending(why=f"{self._label} has queued it again"))
        elif seen.state == "running":
            if silent > LEASES * self._lease and seen.why != "SUSPENDED":
                self._finish(remote, Ending(why=verdict.silent(silent)))
        elif not (seen.why.endswith("no such job") and silent < self._lease and remote.agent):
            self._finish(remote, verdict.without_agent(seen, begun=remote.agent is not None))
