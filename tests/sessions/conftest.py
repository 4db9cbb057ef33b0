"""A client of a session in a process of its own, which may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

#: What the user has in a cell; {options} are of the executor, {call} makes the futures.
CELL = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from civis_futures import ContainerPoolExecutor

folder, tasks, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
platform = SimpleNamespace(url=sys.argv[4], api_key=sys.argv[5])

{functions}

with ContainerPoolExecutor(platform=platform, **{options!r}) as executor:
    {cell}
"""
FUNCTIONS = """
def work(number):
    with open(folder / "runs", "a") as file:  # one line for each execution
        file.write(f"{number}\\n")
    time.sleep(seconds)
    return number * number
"""
MAP = "print(json.dumps(list(executor.map(work, range(tasks)))))"


class Client:
    """Runs the same cell in one process after another."""

    def __init__(self, platform, folder):
        self._platform = platform
        self._folder = folder
        self._processes = []

    def start(self, tasks, seconds, cell=MAP, functions=FUNCTIONS, **options):
        text = CELL.format(
            functions=textwrap.dedent(functions),
            options=options,
            cell=textwrap.indent(textwrap.dedent(cell), "    ").lstrip(),
        )
        where = self._platform.url, self._platform.api_key
        command = [sys.executable, "-c", text, str(self._folder), str(tasks), str(seconds), *where]
        environment = {**os.environ, "PYTHONHASHSEED": "random"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._processes.append(process)
        return process

    def __call__(self, *args, **options):
        """What it prints."""
        process = self.start(*args, **options)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return json.loads(out)

    def kill(self, process):
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def runs(self):
        """The task of each execution, in the order of their beginnings."""
        try:
            return [int(line) for line in (self._folder / "runs").read_text("ascii").split()]
        except FileNotFoundError:
            return []

    def end(self):
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)
            process.stdout.close()
            process.stderr.close()


@pytest.fixture
def make_client():
    """make_client(platform, folder): where tasks leave a line for each execution."""
    made = []

    def make(platform, folder):
        made.append(Client(platform, folder))
        return made[-1]

    yield make
    for client in made:
        client.end()


@pytest.fixture
def client(make_client, platform, tmp_path):
    return make_client(platform, tmp_path)
