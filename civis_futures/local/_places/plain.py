"""A run as a plain process: in a folder of its own, with this Python, and nothing around it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from .._settings import KEY_VARIABLE
from .place import LaunchPlan, RunListener
from .private import make as make_private
from .private import may_install
from .process import Command, RunProcess

LOCALE = "C.UTF-8" if sys.platform.startswith("linux") else "en_US.UTF-8"


class Plain:
    """Starts runs as plain processes, whose files have the file mode mask `umask`."""

    def __init__(self, work: Path, umask: int) -> None:
        self._work = work
        self._umask = umask

    def check(self) -> None:
        """Nothing is needed that is not here."""

    def launch(self, plan: LaunchPlan, key: str, folder: str, listener: RunListener) -> RunProcess:
        """Start one; raises OSError or ValueError if the system will not have it."""
        run_id = plan.run_id
        if plan.repository is not None:
            note = f"The local platform does not clone {plan.repository}: there is no /app."
            listener.printed(run_id, [(time.time(), "info", note)])
        if plan.command is None:
            raise ValueError("the script has no dockerCommand, and there is no image here")
        os.makedirs(os.path.join(folder, "tmp"), mode=0o700)
        environment = _environment(folder, key)
        if may_install(plan.command):  # then it gets a Python of its own
            commands, own = Path(self._work, "commands"), Path(own_python(folder))
            environment |= make_private(own, commands, environment["PATH"])
        environment |= plan.environment
        process = RunProcess(
            Command(["sh", "-c", plan.command], environment, folder, self._umask),
            lambda lines: listener.printed(run_id, lines),
        )
        listener.begun(run_id, None)
        return process

    def close(self) -> bool:
        """Leave nothing behind: there is nothing."""
        return True


def _environment(folder: str, key: str) -> dict[str, str]:
    """Return the variables that depend on the process: where it is at home, and its key."""
    here = os.path.dirname(sys.executable)
    return {
        "PATH": f"{here}{os.pathsep}/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
        "HOME": folder,
        "TMPDIR": os.path.join(folder, "tmp"),
        "LANG": LOCALE,
        "LC_ALL": LOCALE,
        KEY_VARIABLE: key,
    }


def own_python(folder: str) -> str:
    """Where a run's own Python is, if it has one: beside its home, which is empty at first."""
    return f"{folder}-python"
