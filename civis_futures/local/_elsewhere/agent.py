"""The program that a scheduler starts for one run: it fetches its order, runs it, and tells.

It travels as text in the script that is submitted, so it is one file, needs the standard library
of Python 3.8 or later and nothing else, and knows nothing of the scheduler. What it says and what
it is told is in docs/engine-protocol.md. It lives as long as the platform answers: after `lease`
seconds of silence it ends the run and itself, as its results could not be taken any more.

The main thread owns the process: its pipes, its signals, its end. One thread sends what there is to
tell, another one waits for the platform's word; both only put into what `Talk` holds.
"""

from __future__ import annotations

import codecs
import contextlib
import http.client
import json
import os
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Line = tuple[float, str, str]  # seconds since the epoch, level, text

LONGEST_LINE = 32_768  # characters; a longer one becomes several
MOST_LINES = 2_000  # in one report
MOST_CHARACTERS = 1_000_000  # in one report
MOST_WAITING = 16_000_000  # characters that wait to be sent; then the run waits, as at a full pipe
TICK = 0.1  # seconds: the main loop looks around at least as often
AWAKE = 1.0  # seconds: a longer time between two looks was a sleep, and no silence of the platform
REQUEST = 20.0  # seconds that one request may take; the platform answers at least every 10
MERCY = 30.0  # seconds between a TERM that somebody else has sent to this agent, and its KILL
HURRY = 3.0  # seconds for which the end is told to a platform that is away, after a TERM
LAST_LINES = 0.25  # seconds for lines of processes that outlive the command
NO_ORDER, LEFT_ALONE = 75, 70  # exit codes of the agent's own

ORDER = {"go": 0, "stop": 0, "term": 1, "kill": 2}  # of the platform's words
COUNTERS = (  # of the memory controller: its name in /proc/self/cgroup, root, OOM count, peak
    ("memory", "/sys/fs/cgroup/memory", "memory.oom_control", "memory.max_usage_in_bytes"),
    ("", "/sys/fs/cgroup", "memory.events", "memory.peak"),
    ("", "/sys/fs/cgroup/unified", "memory.events", "memory.peak"),
)


class GoneError(Exception):
    """The platform does not want this run any more, or never knew it."""


class PlatformLink:
    """The platform's end: one connection, kept open; one thread uses it."""

    def __init__(self, url: str, key: str, certificate: str | None) -> None:
        self._at = urlsplit(url)
        self._headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
        self._certificate = certificate
        self._connection: http.client.HTTPConnection | None = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._at.scheme != "https":
            return http.client.HTTPConnection(self._at.netloc, timeout=REQUEST)
        # A certificate that came with the script is the only one that is trusted, by itself.
        context = ssl.create_default_context(cadata=self._certificate)
        context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0x80000)
        return http.client.HTTPSConnection(self._at.netloc, timeout=REQUEST, context=context)

    def ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; OSError if there is none for now, GoneError if never."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            path = self._at.path.rstrip("/") + "/_local/agents/" + what
            self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
            reply = self._connection.getresponse()
            data = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError(str(error)) from None
        if reply.status in (400, 401, 403, 404, 405, 409, 413):
            self.close()
            raise GoneError(f"the platform answered {reply.status}: {data[:500].decode()}")
        with contextlib.suppress(ValueError):
            answer = json.loads(data.decode()) if reply.status == 200 else None
            if isinstance(answer, dict):
                return answer
        self.close()
        raise OSError(f"HTTP {reply.status}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Talk:
    """What the three threads share: lines to send, the platform's word, when it last answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()  # guards all that follows; no I/O under it
        self.lines: list[Line] = []
        self.first = 0  # the number of lines[0]
        self.size = 0  # characters in lines
        self.word = "go"
        self.answers = 0  # how often the platform has answered
        self.gone = ""  # why it wants nothing any more
        self.termed = False  # somebody sent this process a TERM
        self.ended: dict[str, Any] | None = None
        self.told_end = False  # the platform knows of it
        self.stir = threading.Event()  # there is something to send
        self.wake_out, self.wake_in = os.pipe()  # the main loop's alarm
        for end in (self.wake_out, self.wake_in):
            os.set_blocking(end, False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway
            os.write(self.wake_in, b"!")

    def add(self, lines: list[Line]) -> None:
        with self.lock:
            self.lines += lines
            self.size += sum(len(text) + 50 for _, _, text in lines)
        self.stir.set()

    def report(self) -> dict[str, Any]:
        """What is to be told now. The end is told once all lines are."""
        with self.lock:
            size = count = 0
            for _, _, text in self.lines[:MOST_LINES]:
                size += len(text)
                if count and size > MOST_CHARACTERS:
                    break
                count += 1
            whole = count == len(self.lines)
            return {
                "agent": self.name,
                "first": self.first,
                "lines": self.lines[:count],
                "termed": self.termed,
                "ended": self.ended if whole else None,
            }

    def heard(self, answer: dict[str, Any], report: dict[str, Any] | None = None) -> bool:
        """Take an answer in; whether there is more to send."""
        with self.lock:
            self.answers += 1
            word = answer.get("word")
            # Answers may overtake each other, and nothing is taken back from `term` on.
            if word in ORDER and ORDER[word] >= ORDER[self.word]:
                self.word = word
            if report is not None:
                sent = len(report["lines"])
                self.size -= sum(len(text) + 50 for _, _, text in self.lines[:sent])
                del self.lines[:sent]
                self.first += sent
                self.told_end = report["ended"] is not None
            more = bool(self.lines) or (self.ended is not None and not self.told_end)
        self.wake()
        return more

    def give_up(self, why: str) -> None:
        with self.lock:
            self.gone = self.gone or why
        self.wake()

    def over(self) -> bool:
        return self.told_end or bool(self.gone)


def send(talk: Talk, platform: PlatformLink) -> None:
    """Tell what there is, every 0.1 s at most."""
    pause, failures, more = TICK, 0, False
    while not talk.over():
        if not more and not failures:
            talk.stir.wait()
            time.sleep(0 if talk.ended is not None else pause)
        talk.stir.clear()
        report = talk.report()
        try:
            answer = platform.ask("report", report)
            pause = float(answer.get("pause", TICK))
            more, failures = talk.heard(answer, report), 0
        except OSError:
            failures += 1
            time.sleep(min(2.0, 0.1 * 2**failures))
        except GoneError as error:
            talk.give_up(str(error))
    platform.close()


def listen(talk: Talk, platform: PlatformLink) -> None:
    """Wait for the platform's word; it answers when that changes, or after some seconds."""
    failures = 0
    while not talk.over():
        try:
            known, asked = talk.word, time.monotonic()
            talk.heard(platform.ask("word", {"agent": talk.name, "known": known}))
            failures = 0
            if talk.word == known and time.monotonic() - asked < TICK:
                time.sleep(2 * TICK)  # it stops, and does not wait any more
        except OSError:
            failures += 1
            time.sleep(min(2.0, 0.1 * 2**failures))
        except GoneError as error:
            talk.give_up(str(error))
    platform.close()


class OutputStream:
    """One of the two streams of the run: bytes in, whole lines out."""

    def __init__(self, descriptor: int, level: str) -> None:
        self.descriptor = descriptor
        self.open = True
        self._level = level
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        os.set_blocking(descriptor, False)

    def read(self) -> list[Line]:
        try:
            data = os.read(self.descriptor, 65_536)
        except BlockingIOError:
            return []
        if not data:
            return self.close()
        whole = (self._rest + self._decoder.decode(data)).split("\n")
        self._rest = whole.pop()
        while len(self._rest) > LONGEST_LINE:
            whole.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        return self._cut(whole)

    def close(self) -> list[Line]:
        self.open = False
        rest, self._rest = self._rest + self._decoder.decode(b"", True), ""
        return self._cut([rest] if rest else [])

    def _cut(self, texts: list[str]) -> list[Line]:
        now = time.time()
        parts = (
            text[start : start + LONGEST_LINE]
            for text in texts
            for start in range(0, len(text) or 1, LONGEST_LINE)
        )
        return [(now, self._level, part[:-1] if part[-1:] == "\r" else part) for part in parts]


class RunningCommand:
    """The command, as a session of its own, in a new folder that is its home."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._folder = tempfile.mkdtemp(prefix="civis-run-")
        home = os.path.join(self._folder, "home")
        temporary = os.path.join(home, "tmp")
        os.makedirs(temporary, 0o700)
        # In a file, and not on a command line, which all users of this machine can see.
        script = os.path.join(self._folder, "command")
        with open(script, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(order["command"])
        # What has left the session is found by it.
        mark = {"CIVIS_AGENT_MARK": os.urandom(16).hex()}
        (self._mark,) = map("=".join, mark.items())
        own = {"HOME": home, "TMPDIR": temporary, **mark}
        self._groups = list(own_groups())  # before there are processes of the run
        self._kills = oom_kills(self._groups)
        self.started = time.monotonic()
        self.code: int | None = None
        self.killed = False
        self.process = subprocess.Popen(
            ["sh", script],
            cwd=home,
            env={**os.environ, **own, **order["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: prepare(order["umask"]),
        )
        pipes = (self.process.stdout, "info"), (self.process.stderr, "error")
        self.streams = [OutputStream(pipe.fileno(), level) for pipe, level in pipes if pipe]
        self._lifeline, self._watcher = self._watched()

    def _watched(self) -> tuple[int, int]:
        """What ends the run if this process is killed: the pipe that tells it, and its pid."""
        # There are no threads yet, so it can be a fork.
        there, here = os.pipe()
        watcher = os.fork()
        if watcher:
            os.close(there)
            return here, watcher
        try:
            os.setsid()  # who kills this process may mean its group
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the others are already
            os.close(here)
            if not os.read(there, 1):  # it was not let go
                self.kill()
                self._remove_folder()
        finally:
            os._exit(0)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End all that there is of it, what has left its group as well."""
        self.killed = True
        if self.code is None:
            self.signal(signal.SIGKILL)
        for _ in range(20):  # again, while a dying one may just have started another
            strays = list(self._strays())
            if not strays:
                break
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _strays(self) -> Iterator[int]:
        needle = self._mark.encode()
        for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                    if needle in file.read().split(b"\0"):
                        yield int(name)

    def reap(self) -> bool:
        """Whether the command has ended; what it leaves behind ends with it."""
        if self.code is None:
            # Looked at before it is reaped: until then its group is its own.
            if hasattr(os, "waitid") and not os.waitid(
                os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                return False
            self.signal(signal.SIGKILL)
            code = self.process.wait()
            self.code = code if code >= 0 else 128 - code
        return True

    def ending(self) -> dict[str, Any]:
        """How it ended, for the platform."""
        assert self.code is not None
        times = os.times()
        wall = max(time.monotonic() - self.started, 0.001)
        return {
            "exit_code": self.code,
            "out_of_memory": self.code != 0 and oom_kills(self._groups) > self._kills,
            "memory": peak_memory(self._groups),
            "cpu": (times.children_user + times.children_system) / wall,
        }

    def remove(self) -> None:
        self._remove_folder()
        with contextlib.suppress(OSError):  # somebody has killed it
            os.write(self._lifeline, b".")
            os.waitpid(self._watcher, 0)

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if os.path.isdir(self._folder):  # it took its own permissions away
            for path, _, _ in os.walk(self._folder):
                os.chmod(path, 0o700)
            shutil.rmtree(self._folder, ignore_errors=True)


def prepare(umask: int) -> None:
    """In the child, before the command."""
    os.setsid()
    os.umask(umask)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # where memory is short, the run goes, and not who tells of it


def own_groups() -> Iterator[tuple[str, str, str]]:
    """Of this process' own memory cgroups: the folder, the files of the OOM count and the peak.

    A group with processes of others in it counts these as well, so it says nothing of the run.
    """
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, path in lines:
        for name, root, kills, peak in COUNTERS:
            if name in controllers.split(",") and path != "/" and is_ours(root + path):
                yield root + path, kills, peak


def is_ours(folder: str) -> bool:
    """Whether all processes of a cgroup were started with this one, or by it."""
    try:
        with open(os.path.join(folder, "cgroup.procs")) as file:
            pids = [int(line) for line in file]
    except (OSError, ValueError):
        return False
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) != os.getsid(0):
                return False
    return True


def oom_kills(groups: list[tuple[str, str, str]]) -> int:
    """How many processes of our own cgroup the kernel has killed for want of memory."""
    count = 0
    for folder, kills, _ in groups:
        with contextlib.suppress(OSError), open(os.path.join(folder, kills)) as file:
            for line in file:
                name, _, value = line.strip().partition(" ")
                if name == "oom_kill" and value.isdigit():
                    count += int(value)
    return count


def peak_memory(groups: list[tuple[str, str, str]]) -> float:
    """The most that our cgroup has used, in MB; else the largest single process that has ended."""
    for folder, _, peak in groups:
        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, peak)) as file:
            return int(file.read()) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit


class Agent:
    """The main thread: the run from its order to its end."""

    def __init__(self, url: str, key: str, lease: float, certificate: str | None) -> None:
        self._platforms = [PlatformLink(url, key, certificate) for _ in range(2)]
        self._lease = lease
        self._talk = Talk(os.urandom(8).hex())
        self._obeyed = "go"
        self._kill_at: float | None = None  # by the monotonic clock
        signal.signal(signal.SIGTERM, self._termed)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _termed(self, *_: object) -> None:
        # (No lock: this interrupts the main thread, which may have it.)
        self._talk.termed = True
        self._talk.stir.set()
        self._talk.wake()

    def run(self) -> int:
        """The exit code: the command's own, so that the scheduler has it as well."""
        try:
            order = self._order()
        except GoneError as error:
            complain(str(error))
            return NO_ORDER
        try:
            run = RunningCommand(order)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            text = f"The container could not be started: {error}"
            self._talk.add([(time.time(), "error", text)])
            self._talk.ended = {"exit_code": None, "out_of_memory": False, "memory": 0, "cpu": 0}
            self._start_talking()
            self._tell_end()
            return LEFT_ALONE
        try:
            self._start_talking()
            return self._watch(run, float(order["cancel_timeout"]))
        finally:
            run.kill()
            run.remove()

    def _order(self) -> dict[str, Any]:
        asked, pause = {"agent": self._talk.name, "host": socket.gethostname()}, 0.1
        until = time.monotonic() + self._lease
        while not self._talk.termed:
            try:
                return self._platforms[0].ask("order", asked)
            except OSError as error:
                if time.monotonic() > until:
                    raise GoneError(f"the platform does not answer: {error}") from None
            time.sleep(pause)
            pause = min(2.0, pause * 2)
        raise SystemExit(NO_ORDER)

    def _start_talking(self) -> None:
        for act, platform in ((send, self._platforms[0]), (listen, self._platforms[1])):
            threading.Thread(target=act, args=(self._talk, platform), daemon=True).start()

    def _watch(self, run: RunningCommand, cancel_timeout: float) -> int:
        talk, silence = self._talk, Silence(self._talk)
        while not run.reap():
            self._wait(run, TICK if self._kill_at is not None else AWAKE / 2)
            if silence.seconds() > self._lease or talk.gone:
                silent = f"the platform has not answered for {self._lease:g} s"
                complain(talk.gone or silent)
                run.kill()
                return LEFT_ALONE
            self._obey(run, cancel_timeout)
        self._last_lines(run)
        with talk.lock:
            talk.ended = run.ending()
        self._tell_end()
        assert run.code is not None
        return run.code

    def _wait(self, run: RunningCommand, seconds: float) -> None:
        """Take what is printed, for a while; not while too much of it waits to be sent."""
        talk = self._talk
        open_ones = [stream for stream in run.streams if stream.open and talk.size <= MOST_WAITING]
        poll = select.poll()
        for descriptor in [talk.wake_out, *(stream.descriptor for stream in open_ones)]:
            poll.register(descriptor, select.POLLIN)
        # A command's end closes its pipes; where it has closed them itself, it is looked for.
        most = seconds if len(open_ones) == len(run.streams) else TICK / 2
        ready = {descriptor for descriptor, _ in poll.poll(most * 1000)}
        if talk.wake_out in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(talk.wake_out, 4096)
        for stream in open_ones:
            if stream.descriptor in ready:
                talk.add(stream.read())

    def _obey(self, run: RunningCommand, cancel_timeout: float) -> None:
        word = self._talk.word
        if self._talk.termed and word in ("go", "stop"):
            word = "termed"
        if word != self._obeyed:
            self._obeyed = word
            if word in ("term", "termed"):
                run.signal(signal.SIGTERM)
                run.signal(signal.SIGCONT)
                # Who else has sent a TERM to this process will kill the run in its own time.
                wait = cancel_timeout if self._talk.word == "term" else max(cancel_timeout, MERCY)
                self._kill_at = time.monotonic() + wait
            elif word == "kill":
                run.kill()
            else:
                run.signal(signal.SIGSTOP if word == "stop" else signal.SIGCONT)
        if self._kill_at is not None and time.monotonic() > self._kill_at and not run.killed:
            run.kill()

    def _last_lines(self, run: RunningCommand) -> None:
        until = time.monotonic() + LAST_LINES
        run.kill()
        for stream in run.streams:
            while stream.open and time.monotonic() < until:
                poll = select.poll()
                poll.register(stream.descriptor, select.POLLIN)
                poll.poll(max(0.0, until - time.monotonic()) * 1000)
                self._talk.add(stream.read())
            if stream.open:
                self._talk.add(stream.close())

    def _tell_end(self) -> None:
        talk, silence = self._talk, Silence(self._talk)
        talk.stir.set()
        while not talk.over():
            # What was sent a TERM is killed soon, and may be in the way.
            if silence.seconds() > (min(HURRY, self._lease) if talk.termed else self._lease):
                break
            time.sleep(TICK / 5)


class Silence:
    """For how long the platform has not answered, without the time in which we were stopped."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._answers = talk.answers
        self._seconds = 0.0
        self._looked = time.monotonic()

    def seconds(self) -> float:
        now = time.monotonic()
        if self._talk.answers == self._answers:
            self._seconds += min(now - self._looked, AWAKE)
        else:
            self._answers, self._seconds = self._talk.answers, 0.0
        self._looked = now
        return self._seconds


def complain(why: str) -> None:
    """Say why this ends: in the job's own output, if the user keeps that."""
    print(f"civis_futures agent: {why}", file=sys.stderr)


def main(url: str, key: str, lease: float, certificate: str | None = None) -> int:
    """Be the agent of one run; the exit code."""
    return Agent(url, key, lease, certificate).run()
