"""Slurm: sbatch, squeue and scancel, and what their answers mean. It needs no accounting.

What Slurm does where, and why these options, was measured with 22.05.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from .commands import Commands, FailedError
from .scheduler import AwayError, JobRequest, JobSeen, JobState, SubmitRefusedError

NEEDED = ("sbatch", "squeue", "scancel")
# The job's end is not known: told when nothing better is known.
STATES: dict[str, JobState] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"), "waiting"
    ),
    **dict.fromkeys(("SPECIAL_EXIT", "RESV_DEL_HOLD"), "waiting"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING"), "running"),
    **dict.fromkeys(("SIGNALING", "STAGE_OUT"), "running"),
    **dict.fromkeys(("COMPLETED", "FAILED", "TIMEOUT", "DEADLINE"), "ended"),
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "out_of_memory",
    **dict.fromkeys(("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED"), "lost"),
}
# With a delimiter of our own, or columns are cut at 20 characters. Reasons have spaces.
COLUMNS = ("JobID", "Name", "State", "Reason", "exit_code")
FORMAT = ",".join(f"{column}:|" for column in COLUMNS)
# What commands say when the controller is away, or too busy: nothing of the job.
AWAY = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Communication connection failure",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Transport endpoint is not connected",
    "in standby mode",
    "temporarily unable",
    "Resource temporarily unavailable",
    "Protocol authentication error",  # munge is away
    "Invalid authentication credential",
    "Failed to communicate with",
    "Unexpected message received",
)
MOST_AT_ONCE = 500  # ids in one command
# What sbatch has of our environment, and so the job. All else, keys for example, stays here;
# so do the SLURM_ variables of a job in which this platform may run itself. To leave the
# environment to sbatch (`--export=NONE`) costs seconds: the node then logs the user in.
KEPT = frozenset(
    {"HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "USER"}
    | {"SLURM_CONF", "SLURM_CLUSTERS"}
)


class SlurmScheduler:
    """The three functions, for one user of one cluster."""

    def __init__(self, options: Mapping[str, Any], commands: Commands) -> None:
        """`options` are those of `Slurm`. ValueError if there is no Slurm here."""
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            said = "is" if len(missing) == 1 else "are"
            raise ValueError(
                f"{', '.join(missing)} {said} not on the path: the platform has to run where jobs "
                "are submitted, on a login node for example"
            )
        self._commands = commands
        self._submit = ["sbatch", "--parsable", "--no-requeue", *_fixed(), *_chosen(options)]

    def submit(self, job: JobRequest) -> str:
        """`sbatch`, with the script on its standard input, where other users cannot read it."""
        asked = [
            f"--job-name={job.name}",
            f"--cpus-per-task={job.cores}",
            f"--mem={job.memory}M",
        ]
        # What the user says comes last, and counts.
        command = [*self._submit[:3], *asked, *self._submit[3:]]
        try:
            printed = self._commands.run(command, job.script, environment())
        except FailedError as error:
            raise (
                AwayError(str(error)) if _away(error) else SubmitRefusedError(str(error))
            ) from None
        # "123", or "123;cluster".
        number = printed.strip().partition(";")[0]
        if not number.isdigit():
            raise AwayError(f"sbatch printed {printed[:200]!r} and no number of a job")
        return number

    def look(self) -> Mapping[str, JobSeen]:
        """`squeue`, by user: asked by ids it fails when it knows none of them any more."""
        command = ["squeue", f"--user={os.getuid()}", "--states=all", "--noheader", "--array"]
        try:
            printed = self._commands.run([*command, f"--Format={FORMAT}"])
        except FailedError as error:
            raise AwayError(str(error)) from None
        rows = (line.split("|") for line in printed.splitlines())
        return {row[0].strip(): seen(*row[1:5]) for row in rows if len(row) > len(COLUMNS) - 1}

    def end(self, ids: Sequence[str]) -> None:
        """`scancel`; without `--full` a signal does not reach what a batch script has started."""
        for start in range(0, len(ids), MOST_AT_ONCE):
            try:
                self._commands.run(["scancel", "--full", *ids[start : start + MOST_AT_ONCE]])
            except FailedError as error:
                if _away(error):
                    raise AwayError(str(error)) from None


def _fixed() -> list[str]:
    # Others can see names, paths and command lines of jobs, and nothing else.
    nowhere = [f"--{stream}=/dev/null" for stream in ("input", "output", "error")]
    return ["--nodes=1", "--ntasks=1", "--export=ALL", "--chdir=/tmp", *nowhere]


def environment() -> dict[str, str]:
    """Return the environment of sbatch, which becomes the job's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith("SBATCH_")
    }


def _chosen(options: Mapping[str, Any]) -> list[str]:
    given = [
        f"--{name}={options[name]}"
        for name in ("partition", "account", "qos")
        if options.get(name) is not None
    ]
    if options.get("time_limit") is not None:
        given.append(f"--time={-(-options['time_limit'] // 60)}")  # minutes
    return [*given, *options.get("extra", ())]


def _away(error: FailedError) -> bool:
    return any(words.lower() in str(error).lower() for words in AWAY)


def seen(name: str, state: str, reason: str, status: str) -> JobSeen:
    """What one row of squeue means."""
    # "CANCELLED by 1000" in some versions.
    word = state.split()[0].rstrip("+") if state.split() else ""
    meaning = STATES.get(word, "running")
    reason = "" if reason.strip() in ("None", "") else reason.strip()
    if meaning == "waiting":
        return JobSeen("waiting", name.strip(), reason)
    code = _exit_code(status) if word in ("COMPLETED", "FAILED") else None
    said = f"Slurm ended it: {word}" + (f" ({reason})" if reason else "")
    if meaning == "running":
        return JobSeen("running", name.strip(), word)
    return JobSeen(meaning, name.strip(), said, code)


def _exit_code(status: str) -> int | None:
    """Of a wait status: 768 is exit code 3, and 9 a KILL."""
    if not status.strip().isdigit():
        return None
    value = int(status)
    return 128 + (value & 0x7F) if value & 0x7F else value >> 8
