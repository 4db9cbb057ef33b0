"""A client that is killed, or asleep, while its containers have nothing to do: they end soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from tasks import SECONDS

from civis_futures.local import LocalPlatform

# Without news of its client, a container without calls ends after idle_timeout and `late`.
SCRIPT = """
import sys
from dataclasses import replace
from civis_futures import ContainerPoolExecutor
from civis_futures._pacing import default_pacing, set_default_pacing

set_default_pacing(replace(default_pacing(), late=1.0))
executor = ContainerPoolExecutor(2, idle_timeout=float(sys.argv[1]), session=sys.argv[2] or None,
                                 keep_alive=float(sys.argv[3]))
print(list(executor.map(pow, [2, 3], [2, 2])), flush=True)
for line in sys.stdin:
    print(executor.submit(pow, 5, 2).result(), flush=True)
"""


@pytest.fixture(scope="module")
def platform():
    """One of their own: nobody archives the scripts of who was killed."""
    with LocalPlatform(cores=8) as platform:
        yield platform


@pytest.fixture
def client(platform):
    """client(idle_timeout) -> a process that has a pool with warm containers; it runs one call for
    each line that it is sent.
    """
    started = []

    def client(idle_timeout, session="", keep_alive=0):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(idle_timeout), session,
             str(keep_alive)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={
                **os.environ,
                "CIVIS_API_ENDPOINT": platform.url,
                "CIVIS_API_KEY": platform.api_key,
            },
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "[4, 9]\n"
        return process

    yield client
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        if not process.stdin.closed:
            process.stdin.close()


def test_idle_containers_of_a_client_that_was_killed_end_soon(client, platform, until):
    process = client(0.5)
    assert platform.stats().active
    process.kill()
    until(lambda: not platform.stats().active)


def test_those_of_a_session_stay_for_the_next_process(client, platform, until):
    process = client(0.5, session="killed while warm", keep_alive=2.5)
    assert platform.stats().active
    process.kill()
    time.sleep(2.0)
    assert platform.stats().active
    until(lambda: not platform.stats().active)


def test_a_client_that_was_asleep_loses_no_call(client, platform, until):
    process = client(1.0)
    process.send_signal(signal.SIGSTOP)
    until(lambda: not platform.stats().active)
    process.stdin.write("next\n")
    process.stdin.flush()
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "25\n"
    process.stdin.close()
    assert process.wait(SECONDS) == 0
