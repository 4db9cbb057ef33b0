"""A scheduler in forty lines: each job is a shell in the background of this machine."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

folder = Path.home() / ".background-jobs"


def configure(options):
    """Options of the engine, as texts."""
    global folder
    folder = Path(options["folder"])


def submit(name, script, cores, memory):  # noqa: ARG001
    """Start `script` by a shell; return an id. OSError: nobody answers. ValueError: refused."""
    if cores > os.cpu_count():
        raise ValueError(f"this machine has no {cores} cores")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    job = folder / name
    # The script holds a key: nobody else may read it.
    descriptor = os.open(f"{job}.sh", os.O_WRONLY | os.O_CREAT, 0o600)
    with open(descriptor, "w") as file:
        file.write(script)
    start = (
        'setsid sh -c \'sh "$0.sh"; echo $? >"$0.code"\' "$1" >/dev/null 2>&1 </dev/null & echo $!'
    )
    done = subprocess.run(["sh", "-c", start, "sh", job], capture_output=True, check=True)
    Path(f"{job}.pid").write_bytes(done.stdout)
    return name


def look():
    """All jobs: what each one is called, its state, and its exit code if it has one."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
    alive = {group for group, state in map(str.split, listed.splitlines()) if state[0] != "Z"}
    found = {}
    for file in folder.glob("*.pid"):
        code = file.with_suffix(".code")
        if code.exists() and code.read_text():
            about = {"state": "ended", "exit_code": int(code.read_text())}
        elif file.read_text().strip() in alive:
            about = {"state": "running"}
        elif file.with_suffix(".ended").exists():
            about = {"state": "cancelled"}
        else:
            about = {"state": "lost", "why": "it was killed"}
        found[file.stem] = {"name": file.stem, **about}
    return found


def end(ids):
    """End these jobs."""
    for name in ids:
        (folder / f"{name}.ended").touch()
        with contextlib.suppress(OSError):
            os.killpg(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
