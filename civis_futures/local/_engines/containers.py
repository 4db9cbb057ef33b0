"""Runs as containers of this machine: started by podman or docker, in the foreground.

A run's process is then the engine's client, within a shell that clears up after it. What is secret
is in the client's environment, and never in a command line. The container's first line says that it
has begun; it is not shown. Where this process may make control groups and networks (Linux, root),
each run has a group of its own, which says whether memory ran out, and there is no network but the
platform.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._places.place import Ending, LaunchPlan, Line, RunListener, UnusableError
from .._places.process import Command, RunProcess
from .._settings import KEY_VARIABLE
from .enclosure import Enclosure
from .groups import MEGABYTE, Group, largest_charge, tree
from .options import ONLY_US, Docker, Podman

LABEL = "civis-futures"
BEGUN = "civis_futures: the container has begun"
CAP_SYS_RESOURCE = 24
#: Variables by which a client, git or the loader are told what to do.
_TELLING = re.compile(
    r"(LD_|XDG_|GIT_|GO|SSL_|CONTAINER|DOCKER|PODMAN|STORAGE_|REGISTRY|NOTIFY_|LISTEN_|BASH_|ENV$"
    r"|IFS$|TMPDIR$|HOME$|PATH$)"
)
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

# $1 is a folder, $2 the container, $3 how it is removed, $4 how to ask how it ended, if it must be.
# TERM goes to the client as well, and the shell outlives it.
_CLIENT = """
trap : TERM
folder=$1 name=$2 remove=$3 ask=$4
shift 4
if [ -n "$CIVIS_LOCAL_REPOSITORY" ]; then
    git clone -q -- "$CIVIS_LOCAL_REPOSITORY" "$folder/app" || exit 125
    if [ -n "$CIVIS_LOCAL_REFERENCE" ]; then
        git -C "$folder/app" checkout -q "$CIVIS_LOCAL_REFERENCE" -- || exit 125
    fi
fi
"$@"
code=$?
[ -z "$ask" ] || $ask --format '{{.State.OOMKilled}}' "$name" >"$folder/memory" 2>&1
if [ -n "$ask" ] || [ $code -gt 124 ]; then $remove "$name" >/dev/null 2>&1; fi
exit $code
"""


@dataclass(frozen=True, slots=True)
class ContainerHandle:
    """By what a container is ended: its control group, which is `spent` then, or else commands."""

    group: Group | None
    spent: Callable[[Group], None]
    kill: Sequence[str]
    remove: Sequence[str]


class ContainerProcess(RunProcess):
    """The client of one container."""

    measured = False  # the kernel keeps its limit

    def __init__(
        self,
        command: Command,
        lines: Callable[[list[Line]], None],
        begun: Callable[[], None],
        handle: ContainerHandle,
    ) -> None:
        """Start it; what it prints, and that the container runs, is told by `lines` and `begun`."""
        self._print = lines
        self._tell_begun = begun
        self._handle = handle
        self._group = handle.group
        self._folder = command.folder
        self._begun: float | None = None  # when it has, by the monotonic clock
        self._unwanted = False
        super().__init__(command, self._take)

    def _take(self, lines: list[Line]) -> None:
        if self._begun is None:
            for number, (_, level, text) in enumerate(lines):
                if level == "info" and text == BEGUN:
                    lines = [*lines[:number], *lines[number + 1 :]]
                    self.begin()
                    break
        if lines:
            self._print(lines)

    def begin(self) -> None:
        """Note that the container runs; one that was to be ended before is ended now."""
        self._begun = time.monotonic()
        self._tell_begun()
        if self._unwanted:
            self._kill_container()

    @property
    def begun(self) -> bool:
        """Whether the container runs, or has run."""
        return self._begun is not None

    def terminate(self) -> None:
        """Send TERM to the container, by its client; do not let it begin, if it has not."""
        if self._begun is None:
            self._unwanted = True
        super().terminate()

    def kill(self) -> None:
        """End the container; its client then ends by itself."""
        if self.exit_code is not None:
            return
        if self._begun is not None:
            self._unwanted = True
            self._kill_container()
        elif self._unwanted:
            super().kill()
        else:
            self.terminate()

    def _kill_container(self) -> None:
        if self._group is not None:
            self._group.signal(signal.SIGKILL)
        else:
            self._run(self._handle.kill)

    def _run(self, arguments: Sequence[str]) -> None:
        """Let a command run, without waiting for it."""
        null = subprocess.DEVNULL
        command = subprocess.Popen(arguments, stdin=null, stdout=null, stderr=null)
        # The run may be over before it is, and then nothing else would reap it.
        threading.Thread(target=command.wait, name="civis-local-command", daemon=True).start()

    def stop(self) -> bool:
        """Stop all processes in the container, where they are known."""
        if self._group is not None:
            self._group.signal(signal.SIGSTOP)
        return self._group is not None

    def go_on(self) -> None:
        """Let what was stopped go on."""
        if self._group is not None and self.exit_code is None:
            self._group.signal(signal.SIGCONT)

    def pids(self) -> list[int]:
        """Return the processes in the container, where they are known."""
        return [] if self._group is None or self.exit_code is not None else self._group.pids()

    def sweep(self) -> None:
        """End what an ended client has left, who may have been killed itself."""
        super().kill()
        if self._group is not None:
            self._group.signal(signal.SIGKILL)

    def ending(self) -> Ending:
        """Return how the container ended."""
        group, code = self._group, self.exit_code
        if self.signalled and group is None:  # it was not removed
            self._run(self._handle.remove)
        if self._begun is None:
            if group is not None:
                self._handle.spent(group)
            return Ending(why=f"The container could not be started (exit code {code}).")
        killed = code == 137 and not self._unwanted
        if group is None:
            return Ending(code, out_of_memory=killed and self._says_memory())
        wall = max(time.monotonic() - self._begun, 0.001)
        ending = Ending(
            code,
            out_of_memory=killed and group.killed_for_memory(),
            max_memory=group.peak_memory(),
            max_cpu=group.cpu_seconds() / wall,
        )
        self._handle.spent(group)
        return ending

    def _says_memory(self) -> bool:
        try:
            return Path(self._folder, "memory").read_text().strip() == "true"
        except OSError:
            return False


class Containers:
    """Starts runs as containers. `tag` is in their names; their files have the mask `umask`."""

    def __init__(
        self, options: Podman | Docker, tag: str, umask: int, addresses: Sequence[tuple[Any, ...]]
    ) -> None:
        self._options = options
        self._client = shlex.split(options.command)
        self._tag = tag
        self._umask = umask
        self._addresses = addresses
        self._started = 0
        self._spent: list[Group] = []  # to be removed
        self._enclosure: Enclosure | None = None
        self._own_groups = isinstance(options, Podman) and os.geteuid() == 0 and tree() is not None

    def check(self) -> None:
        """Raise UnusableError if there is no such engine, or not the network that is wanted."""
        name = self._options.name
        if not self._client or shutil.which(self._client[0]) is None:
            raise UnusableError(f"{name} is not here: there is no command {self._options.command}")
        try:
            done = subprocess.run(
                [*self._client, "version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10.0,  # docker asks its server
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnusableError(f"{name} does not answer: {error}") from None
        if done.returncode != 0:
            raise UnusableError(f"{name} cannot be used: {done.stderr.strip()}")
        if self._options.network == ONLY_US:
            try:
                self._enclosure = Enclosure(self._addresses)
            except OSError as error:
                raise UnusableError(
                    f'network="{ONLY_US}" needs Linux, root and IPv4 ({error.strerror}); '
                    'with network="host" containers have the network of this machine'
                ) from None

    @property
    def enclosure(self) -> Enclosure | None:
        """The network that they have, if it is one of their own."""
        return self._enclosure

    def launch(self, plan: LaunchPlan, key: str, folder: str, listener: RunListener) -> RunProcess:
        """Start one; raises OSError or ValueError if the system will not have it."""
        if plan.image is None:
            raise ValueError("the script has no dockerImageName")
        self._started += 1
        run_id, name = plan.run_id, f"{LABEL}-{self._tag}-{plan.run_id}-{self._started}"
        os.makedirs(folder, mode=0o700)
        variables = {KEY_VARIABLE: key, **plan.environment}
        wrapper, environment = _carried(variables, plan.command)
        if plan.repository is not None and shutil.which("git") is None:
            note = f"There is no git here to clone {plan.repository}: there is no /app."
            listener.printed(run_id, [(time.time(), "info", note)])
        elif plan.repository is not None:
            environment["CIVIS_LOCAL_REPOSITORY"] = _address(plan.repository)
            environment["CIVIS_LOCAL_REFERENCE"] = plan.reference or ""
        if any("\0" in value for value in environment.values()):
            raise ValueError("a value has a NUL in it")
        group = None
        if self._own_groups:
            group = Group(f"{LABEL}-{self._tag}/run-{run_id}-{self._started}", plan.memory)
        options = [*self._options_of(plan, name, group), *_names(environment)]
        if "CIVIS_LOCAL_REPOSITORY" in environment:
            options += ["--volume", f"{folder}/app:/app"]
        image = [plan.image] if wrapper is None else ["--entrypoint=sh", plan.image, "-c", wrapper]
        try:
            arguments = self._arguments(
                name, folder, group, [*options, *self._options.extra, *image]
            )
            environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment}
            process = ContainerProcess(
                Command(arguments, environment, folder, self._umask),
                lambda lines: listener.printed(run_id, lines),
                lambda: listener.begun(run_id, None),
                self._handle(name, group),
            )
        except BaseException:
            if group is not None:
                group.remove()
            raise
        if wrapper is None:  # it cannot say so
            process.begin()
        return process

    def _handle(self, name: str, group: Group | None) -> ContainerHandle:
        remove = [*shlex.split(_removing(self._options)), name]
        return ContainerHandle(group, self._spend, [*self._client, "kill", name], remove)

    def _arguments(
        self, name: str, folder: str, group: Group | None, options: list[str]
    ) -> list[str]:
        """Return the command line of the client and what is around it."""
        ask = "" if group else f"{self._options.command} inspect"
        around = ["sh", "-c", _CLIENT, "sh", folder, name, _removing(self._options), ask]
        manager = ["--cgroup-manager=cgroupfs"] if group else []
        return [*around, *self._client, *manager, "run", *options]

    def _options_of(self, plan: LaunchPlan, name: str, group: Group | None) -> list[str]:
        options = ["--rm"] if group else []
        options += [f"--name={name}", f"--label={LABEL}={self._tag}", "--log-driver=none"]
        options.append(f"--cpu-shares={max(plan.cpu, 2)}")
        if group:
            # The limit of the group around it, which tells, is reached first; this can be seen.
            options.append(f"--cgroup-parent=/{group.name}")
            options.append(f"--memory={plan.memory * MEGABYTE + 2 * largest_charge()}b")
        else:
            options += [f"--memory={plan.memory}m", f"--memory-swap={plan.memory}m"]
        network = self._options.network
        if self._enclosure is not None:
            network = f"ns:{self._enclosure.path}"
        options.append(f"--network={network}")
        if isinstance(self._options, Podman):
            options += ["--http-proxy=false", *_limits()]
        if self._options.user is not None:
            options.append(f"--user={self._options.user}")
        return options

    def _spend(self, group: Group) -> None:
        """Remove a group: a moment later, since what watches over a container outlives it."""
        self._spent.append(group)
        if len(self._spent) == 1:
            self._clear_later(0.1)

    def _clear_later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._clear_again, seconds)

    def _clear_again(self, seconds: float) -> None:
        self._clear()
        if self._spent:
            self._clear_later(min(2 * seconds, 5.0))

    def _clear(self) -> None:
        self._spent = [group for group in self._spent if not group.remove()]

    def close(self) -> bool:
        """Let go of the network; return whether no group is left, after a moment."""
        latest = time.monotonic() + 1.0  # what is left then is left to the guard
        self._clear()
        while self._spent and time.monotonic() < latest:
            time.sleep(0.02)
            self._clear()
        if self._enclosure is not None:
            self._enclosure.close()
        return not self._spent


def leftovers(options: Podman | Docker, tag: str) -> str:
    """Return the shell command that removes what a server has left that was killed."""
    found = f"{options.command} ps -aq --filter label={LABEL}={tag}"
    groups = f"find /sys/fs/cgroup -depth -type d -path '*/{LABEL}-{tag}*'"
    # Again after some seconds: who watched over a container takes a moment to end.
    removed = f"""for pause in 0 0.1 0.5 2 5; do
        sleep $pause; {groups} -exec rmdir {{}} ';'; [ -n "$({groups})" ] || break
    done"""
    return f"{{ {found} | xargs -r {_removing(options)}; {removed}; }} >/dev/null 2>&1"


def _removing(options: Podman | Docker) -> str:
    """Return how a container is ended and removed; podman first waits, unless it is told."""
    return f"{options.command} rm -f" + (" --time 0" if isinstance(options, Podman) else "")


def _carried(
    variables: Mapping[str, str], command: str | None
) -> tuple[str | None, dict[str, str]]:
    """Return what the container's shell is to run, and the variables that the client is given.

    A variable that would tell the client something has another name on the way.
    """
    if command is None:  # then it cannot be renamed
        return None, {name: value for name, value in variables.items() if not _tells(name)}
    carried, lines = {}, [f"echo '{BEGUN}'"]
    for number, (name, value) in enumerate(variables.items()):
        if _tells(name):
            carried[f"CIVIS_LOCAL_{number}"] = value
            lines.append(f'export {name}="$CIVIS_LOCAL_{number}"; unset CIVIS_LOCAL_{number}')
        else:
            carried[name] = value
    carried["CIVIS_LOCAL_COMMAND"] = command
    lines.append('set -- "$CIVIS_LOCAL_COMMAND"; unset CIVIS_LOCAL_COMMAND; exec sh -c "$1"')
    return "\n".join(lines), carried


def _tells(name: str) -> bool:
    if name.startswith("CIVIS_") or not _SHELL_NAME.fullmatch(name):
        return False
    return name in os.environ or _TELLING.match(name) is not None


def _names(environment: Mapping[str, str]) -> list[str]:
    """Return options that name variables; their values are in the client's environment."""
    ours = ("CIVIS_LOCAL_REPOSITORY", "CIVIS_LOCAL_REFERENCE")
    return [f"--env={name}" for name in environment if name not in ours]


def _address(repository: str) -> str:
    """Return the address of a repository, which the Platform takes without a scheme."""
    is_whole = "://" in repository or repository.startswith("/") or "@" in repository
    return repository if is_whole else f"https://{repository}"


def _limits() -> list[str]:
    """Return limits that podman may set: it asks for more than root in a container may."""
    try:
        status = Path("/proc/self/status").read_text()
        may = int(status.partition("CapEff:")[2].split()[0], 16) >> CAP_SYS_RESOURCE & 1
    except (OSError, IndexError, ValueError):
        return []
    if may or os.geteuid() != 0:
        return []
    most = {"nofile": 2**20, "nproc": int(Path("/proc/sys/kernel/pid_max").read_text())}
    least = {}
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(kind)[1]
        least[name] = most[name] if hard == resource.RLIM_INFINITY else min(hard, most[name])
    return [f"--ulimit={name}={limit}:{limit}" for name, limit in least.items()]
