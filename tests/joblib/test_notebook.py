"""A call in a cell of a notebook: the table of its tasks, while it runs."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager

import pytest
from tasks import SECONDS

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")

CALL = """
import civis_joblib
from joblib import Parallel, delayed, parallel_config
from pathlib import Path
from time import sleep
civis_joblib.register()

def wait(n):
    while not Path({gate!r}).exists():
        sleep(0.01)
    return {value}

with parallel_config("civis", n_jobs=2, progress=True):
    print("results", Parallel(batch_size=1)(delayed(wait)(n) for n in range(3)))
"""


@contextmanager
def kernel(folder):
    """A kernel of IPython's, and a client of it."""
    home = {"HOME": str(folder), "IPYTHONDIR": str(folder), "JUPYTER_CONFIG_DIR": str(folder)}
    started, client = manager.start_new_kernel(env={**os.environ, **home}, startup_timeout=SECONDS)
    try:
        yield client
    finally:
        client.stop_channels()
        started.shutdown_kernel()


def outputs(client):
    """What a cell shows, one after the other, to its end; with the display that it changes."""
    while True:
        message = client.get_iopub_msg(timeout=SECONDS)
        kind, content = message["msg_type"], message["content"]
        if kind in ("display_data", "update_display_data"):
            shown = content["data"].get("text/html", content["data"]["text/plain"])
            yield content["transient"]["display_id"], re.sub("<style>.*?</style>", "", shown)
        elif kind in ("stream", "error"):
            yield "", content.get("text") or "\n".join(content["traceback"])
        elif kind == "status" and content["execution_state"] == "idle":
            return


@pytest.mark.parametrize(("value", "left"), [("n", 0), ("1 // n", 1)])
def test_the_table_of_a_call_that_runs(tmp_path, value, left):
    gate, texts, tables = tmp_path / "gate", [], []
    with kernel(tmp_path) as client:
        client.execute(CALL.format(gate=str(gate), value=value))
        for display, shown in outputs(client):
            (tables if display else texts).append((display, shown))
            if display and shown.count('<td class="state running">') == 2:
                gate.touch()  # it was seen while the call ran
    assert gate.exists(), texts
    assert {display for display, _ in tables} == {tables[0][0]}, "one table, which changes"
    assert "wait" in "".join(shown for _, shown in tables)
    last = tables[-1][1]
    assert last.count("failed</td>") == left
    assert ("ZeroDivisionError" in last) == bool(left)
    assert ("results [0, 1, 2]" in "".join(shown for _, shown in texts)) == (not left)
    assert bool(last) == bool(left), "what went well leaves no table"
