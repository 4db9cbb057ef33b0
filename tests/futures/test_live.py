"""In a real kernel: what a cell has shown changes while tasks run, and no thread is left."""

from __future__ import annotations

import re
import time

import pytest

PATIENCE = 60.0

SETUP = """
import threading
from civis_futures import ContainerPoolExecutor, table
from civis_futures.testing import LocalPlatform
platform = LocalPlatform(cores=4)
platform.start()
executor = ContainerPoolExecutor(2, platform=platform, name="live")
gate = {gate!r}

def wait(name):
    import os, time
    while not os.path.exists(gate + name):
        time.sleep(0.02)
    if name == "b":
        raise ValueError("<b>no</b>")
"""


class Notebook:
    """A kernel, and what a browser would show of its outputs."""

    def __init__(self, client):
        self.client = client
        self.outputs = {}  # by display id: the texts that were shown, one after the other
        self.results = []

    def run(self, cell):
        """Run a cell to its end; the text of its results."""
        self.results = []
        message = self.client.execute(cell)
        self.read(lambda: self.ended == message)
        return "\n".join(self.results)

    def read(self, until):
        """Read what the kernel says until something is so."""
        end, self.ended = time.monotonic() + PATIENCE, None
        while not until():
            assert time.monotonic() < end, self.outputs
            self.take(self.client.get_iopub_msg(timeout=PATIENCE))

    def take(self, message):
        content, kind = message["content"], message["msg_type"]
        if kind == "status" and content["execution_state"] == "idle":
            self.ended = message["parent_header"].get("msg_id")
        elif kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        elif kind in ("display_data", "update_display_data"):
            name = content["transient"].get("display_id")
            self.outputs.setdefault(name, []).append(content["data"])
        elif kind == "execute_result":
            self.results.append(content["data"]["text/plain"])
        elif kind == "stream":
            self.results.append(content["text"])

    def last(self, name, kind="text/plain"):
        return self.outputs[name][-1][kind]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    folder = str(tmp_path_factory.mktemp("kernel"))
    kernel, client = manager.start_new_kernel(cwd=folder)
    try:
        notebook = Notebook(client)
        notebook.run(SETUP.format(gate=f"{folder}/"))
        notebook.folder = folder
        yield notebook
        notebook.run("executor.shutdown(); platform.stop()")
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_displays_live_until_all_is_done(notebook, until):
    notebook.run("executor")
    [pool] = notebook.outputs
    assert "0 of 0 done" in notebook.last(pool)
    notebook.run("futures = [executor.submit(wait, name) for name in 'abc']\ntable(futures)")
    [_, futures] = notebook.outputs

    def ran():
        return [
            float(seconds)
            for each in notebook.outputs[futures]
            for seconds in re.findall(r"running for ([\d.]+) s", each["text/plain"])
        ]

    notebook.read(lambda: len(set(ran())) > 2)  # it changes, and no cell runs
    assert "queued: " in notebook.last(pool) or "pending: " in notebook.last(pool)
    for name in "abc":
        open(f"{notebook.folder}/{name}", "w").close()
    notebook.read(lambda: "3 of 3 done" in notebook.last(futures))
    notebook.read(lambda: "3 of 3 done" in notebook.last(pool))
    assert "ValueError: <b>no</b>" in notebook.last(futures)
    assert "&lt;b&gt;no&lt;/b&gt;" in notebook.last(futures, "text/html")

    # What is over is a result as any other, and an executor is over when it is shut down.
    assert "3 of 3 done" in notebook.run("table(futures)")
    assert list(notebook.outputs) == [pool, futures]
    threads = "print([each.name for each in threading.enumerate() if 'display' in each.name])"
    assert "civis-futures display" in notebook.run(threads)
    notebook.run("executor.shutdown()")
    until(lambda: notebook.run(threads).strip() == "[]")


def test_what_is_shown_twice_changes_twice(notebook):
    notebook.outputs.clear()
    notebook.run("again = ContainerPoolExecutor(1, platform=platform)\nagain")
    notebook.run("again")
    [(name, shown)] = notebook.outputs.items()
    assert len(shown) == 2
    notebook.run("again.submit(pow, 2, 2).result()")
    notebook.read(lambda: "1 of 1 done" in notebook.last(name))
    notebook.run("again.shutdown(); del again")
