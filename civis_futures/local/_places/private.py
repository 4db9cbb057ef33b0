"""A Python environment of a run's own, which sees the user's and never changes it.

In a container, what a run installs is gone with it. Here a run uses the user's Python; so a run
that may install something gets a virtual environment in its folder. It has no packages: a `.pth`
file makes it look into the user's environment, after its own. There is nothing to copy and no pip
to install, so that it takes some milliseconds.

It knows no store and no API.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import site
import sys
import sysconfig
from pathlib import Path

#: The shell becomes Python at once, with a program of its own: nothing can have been installed
#: before it begins. All other commands may install something.
_PROGRAM = re.compile(r"\s*exec\s+[\w./-]*python[\d.]*\s+-c?\s")
_NAME = "_civis_local_environment"
# The folders of the Python from which all this was made are added to the path after this is run;
# from Python 3.15 on, before that. Either way they stay only if the user's environment has them.
_MODULE = '''\
"""Look into the user's environment, after this one. Written by the local platform."""

import os, site, sys

folders = {folders!r}
find = site.getsitepackages
base = find([sys.base_prefix, sys.base_exec_prefix])
sys.path[:] = [path for path in sys.path if path not in base]
site.getsitepackages = lambda prefixes=None: find(prefixes or [sys.prefix])
own = site.getusersitepackages()  # `pip install --user` finds a home of the run's own
for folder in [own, *folders]:
    if os.path.isdir(folder) and folder not in sys.path:
        site.addsitedir(folder)
sys.path += {more!r}
if sys.orig_argv[1:3] == ["-m", "pip"]:
    os.environ.pop("PIP_PYTHON", None)  # it would start itself again, to be what it is already
'''


def may_install(command: str) -> bool:
    """Whether a run's command may install packages."""
    return _PROGRAM.match(command) is None


def make(folder: Path, commands: Path, path: str) -> dict[str, str]:
    """Make an environment in `folder`; return the variables by which a run uses it.

    `commands` is a folder for all runs: it has the commands of the user's environment, to be run
    by the Python of whichever run calls them. `path` is the PATH so far.
    """
    import venv  # not needed by most platforms

    class Bare(venv.EnvBuilder):
        def setup_scripts(self, context: object) -> None:
            """None: it is never activated."""

    # With the packages of the system, or pip refuses `--user`; see `_MODULE`.
    Bare(system_site_packages=True, symlinks=True).create(folder)
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    text = _MODULE.format(folders=site.getsitepackages(), more=_pip())
    Path(own, f"{_NAME}.py").write_text(text, "utf-8")
    Path(own, f"{_NAME}.pth").write_text(f"import {_NAME}\n", "utf-8")
    if not commands.exists():
        _offer(commands)
    return {
        "PATH": os.pathsep.join((str(folder / "bin"), str(commands), path)),
        "VIRTUAL_ENV": str(folder),  # uv and others install there
        "PIP_PYTHON": str(folder / "bin" / "python3"),  # so does pip, of whatever Python
    }


def _pip() -> list[str]:
    """The wheel of pip that came with Python, if the user's environment has no pip."""
    if importlib.util.find_spec("pip") is not None:
        return []
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]  # of Linux distributions
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin is not None:
        folders.append(os.path.join(os.path.dirname(spec.origin), "_bundled"))
    wheels = [path for folder in folders if folder for path in Path(folder).glob("pip-*.whl")]
    return [str(path) for path in wheels[:1]]


def _offer(commands: Path) -> None:
    """Write a command for each one of the user's environment that is a script of its Python."""
    texts = dict.fromkeys(_pips(), 'exec "$VIRTUAL_ENV/bin/python3" -m pip')
    here = os.path.dirname(sys.executable)
    for name in os.listdir(here):
        if name not in texts and _is_of_python(os.path.join(here, name), here):
            script = shlex.quote(os.path.join(here, name))
            texts[name] = f'exec "$VIRTUAL_ENV/bin/python3" {script}'
    commands.mkdir(mode=0o700)
    for name, text in texts.items():
        (commands / name).write_text(f'#!/bin/sh\n{text} "$@"\n', "utf-8")
        (commands / name).chmod(0o700)


def _pips() -> tuple[str, ...]:
    major, minor = sys.version_info[:2]
    return "pip", f"pip{major}", f"pip{major}.{minor}"


def _is_of_python(path: str, here: str) -> bool:
    """Whether a file is a script that the Python in the folder `here` runs."""
    try:
        with open(path, "rb") as file:
            first = file.read(1000)
    except OSError:  # a folder, a broken link, not for us
        return False
    # The second line, where a path is too long for the first one, or has spaces.
    lines = b"\n".join(first.split(b"\n")[:2])
    return first.startswith(b"#!") and os.fsencode(os.path.join(here, "python")) in lines
