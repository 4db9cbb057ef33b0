"""The interpreter's exit: whoever forgot the shutdown gets the work done, and no exit hangs."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 75

PRELUDE = """
import atexit, os, sys, threading, time
from civis_futures import ContainerPoolExecutor
mode = int(sys.argv[1]) or None
executor = ContainerPoolExecutor(2, max_tasks_per_worker=mode)

def wait_and_return(seconds, value):
    time.sleep(seconds)
    return value

def tell(future):
    # One write, since callbacks of two executors come from two threads.
    os.write(1, f"{future.exception() or future.result()}\\n".encode())
"""


class Scripts:
    """Scripts in an interpreter of their own, on the platform of the tests."""

    def __init__(self, folder, platform):
        self.started = []
        self._folder = folder
        self._environment = {
            **os.environ,
            "CIVIS_API_ENDPOINT": platform.url,
            "CIVIS_API_KEY": platform.api_key,
            "PYTHONWARNINGS": "error",
            "PYTHONFAULTHANDLER": "1",  # all stacks, if it has to be aborted
        }

    def start(self, body, mode=None, python=sys.executable, prelude=PRELUDE, **environment):
        path = self._folder / "script.py"
        path.write_text(prelude + textwrap.dedent(body))
        process = subprocess.Popen(
            [python, str(path), str(mode or 0)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment | environment,
            start_new_session=True,  # so that it can be ended with all that it forked
        )
        self.started.append(process)
        return process

    def __call__(self, *args, **options):
        """(exit code, lines of stdout, stderr) of a script."""
        return self.end(self.start(*args, **options))

    def end(self, process):
        with process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGABRT)
                _, err = process.communicate()
                raise AssertionError(f"the script does not end:\n{err}") from error
        return process.returncode, out.splitlines(), err


@pytest.fixture
def script(tmp_path, platform):
    """script(body): what became of it; script.start(body), script.end(process) in two steps."""
    scripts = Scripts(tmp_path, platform)
    yield scripts
    for process in scripts.started:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            with process:
                process.communicate()


@pytest.fixture
def run(script, max_tasks_per_worker):
    """run(body): as script, in each mode."""
    return functools.partial(script, mode=max_tasks_per_worker)


# --- work is finished --------------------------------------------------------------------------


def test_the_end_of_the_script_finishes_the_work(run):
    code, out, err = run("""
        for number in range(4):
            executor.submit(wait_and_return, 0.1, number).add_done_callback(tell)
    """)
    assert (code, sorted(out), err) == (0, ["0", "1", "2", "3"], "")


def test_also_when_the_script_has_forgotten_the_executor(run):
    code, out, err = run("""
        executor.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
        del executor
    """)
    assert (code, out, err) == (0, ["apple"], "")


def test_also_after_a_shutdown_that_did_not_wait(run):
    code, out, err = run("""
        executor.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
        executor.shutdown(wait=False)
    """)  # CPython's gh-83386
    assert (code, out, err) == (0, ["apple"], "")


def test_also_after_sys_exit(script):
    code, out, err = script("""
        executor.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
        sys.exit(3)
    """)
    assert (code, out, err) == (3, ["apple"], "")


def test_also_when_the_script_raises(run):
    code, out, err = run("""
        executor.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
        raise LookupError("in the script")
    """)
    assert (code, out) == (1, ["apple"])
    assert err.strip().endswith("LookupError: in the script")
    assert err.count("Traceback") == 1


def test_also_when_the_call_raises(script):
    code, out, err = script("""
        executor.submit(divmod, 1, 0).add_done_callback(tell)
    """)
    assert code == 0
    assert "division" in out[0] or "modulo" in out[0]
    assert err == ""


def test_also_when_the_script_raises_in_a_with(script):
    code, out, err = script("""
        with executor:
            executor.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
            raise LookupError("in the with")
    """)
    assert (code, out) == (1, ["apple"])
    assert err.strip().endswith("LookupError: in the with")


def test_also_when_it_waits_in_a_thread(script):
    code, out, err = script("""
        future = executor.submit(wait_and_return, 0.1, "apple")
        threading.Thread(target=lambda: print(future.result(), flush=True)).start()
    """)
    assert (code, out, err) == (0, ["apple"], "")


def test_cancelled_work_is_not_done(script):
    code, out, err = script("""
        futures = [executor.submit(wait_and_return, 0.1, "apple") for _ in range(20)]
        executor.shutdown(wait=False, cancel_futures=True)
        print(sum(future.cancelled() for future in futures) >= 16)
    """)
    assert (code, out, err) == (0, ["True"], "")


def test_an_executor_that_was_never_used(script):
    assert script("") == (0, [], "")


def test_many_executors(script):
    code, out, err = script("""
        others = [ContainerPoolExecutor(1) for _ in range(2)]
        for number, one in enumerate(others):
            one.submit(wait_and_return, 0.1, number).add_done_callback(tell)
    """)
    assert (code, sorted(out), err) == (0, ["0", "1"], "")


def test_its_own_platform_ends_with_the_script(script, tmp_path, until):
    code, out, err = script("""
        import os, psutil
        own = ContainerPoolExecutor(1, platform="local")
        own.submit(wait_and_return, 0.1, "apple").add_done_callback(tell)
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    """)
    assert (code, err) == (0, "")
    pids, told = out
    assert told == "apple"
    assert pids
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.split()))


def test_a_platform_that_ends_first(script):
    code, out, _ = script(
        """
        from civis_futures.testing import LocalPlatform, short_waits
        with LocalPlatform() as own:
            with short_waits():  # or this takes 30 s
                executor = ContainerPoolExecutor(1, platform=own)
            executor.submit(pow, 2, 3).add_done_callback(tell)
            executor.submit(pow, 2, 3).result()
        # no shutdown, and the platform is gone
        """
    )
    assert (code, out) == (0, ["8"])


# --- submissions that come too late ------------------------------------------------------------


def test_a_submission_after_the_end_is_refused(script):
    code, out, err = script("""
        unused = ContainerPoolExecutor(1)
        @atexit.register
        def late():
            for one in (executor, unused):
                try:
                    one.submit(id, None)
                except RuntimeError as error:
                    print("refused:", error)
        executor.submit(id, 42).result()
    """)
    assert (code, err, len(out)) == (0, "", 2)
    for line in out:
        assert line.startswith("refused: cannot schedule new futures after")


def test_a_new_executor_after_the_end_is_refused_or_works(script):
    code, out, err = script("""
        @atexit.register
        def late():
            try:
                with ContainerPoolExecutor(1) as late_one:
                    print(late_one.submit(pow, 2, 2).result(10))
            except RuntimeError:
                print("refused")
    """)
    assert (code, err) == (0, "")
    assert out in (["4"], ["refused"])


def test_a_submission_from_a_callback_at_the_end_is_taken_or_refused(run):
    code, out, err = run("""
        def again(future):
            try:
                executor.submit(wait_and_return, 0.01, "second").add_done_callback(tell)
            except RuntimeError:
                print("refused", flush=True)
        executor.submit(wait_and_return, 0.2, "first").add_done_callback(again)
    """)
    assert (code, err) == (0, "")
    assert out in (["second"], ["refused"])


def test_a_thread_that_submits_for_ever_is_stopped(run):
    code, out, err = run("""
        def submit():
            futures = []
            try:
                while True:
                    futures.append(executor.submit(pow, 2, 2))
                    time.sleep(0.05)
            except RuntimeError:
                print("refused", all(future.result(10) == 4 for future in futures), flush=True)
        threading.Thread(target=submit).start()
        time.sleep(0.2)
    """)
    assert (code, out, err) == (0, ["refused True"], "")


# --- interruptions -----------------------------------------------------------------------------


def test_an_interrupt_lets_the_work_finish(script, gate, until):
    process = script.start(
        f"""
        def wait_at(gate):
            import os
            open(gate + "/arrived-it", "w").close()
            while not os.path.exists(gate + "/open"):
                time.sleep(0.005)
            return "apple"
        future = executor.submit(wait_at, {gate.path!r})
        future.add_done_callback(tell)
        future.result()
        """
    )
    until(lambda: gate.arrived)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    gate.open()
    code, out, err = script.end(process)
    assert code == -signal.SIGINT
    assert out == ["apple"]
    assert err.strip().endswith("KeyboardInterrupt")


def test_a_second_interrupt_ends_it_at_once(script, gate, until):
    process = script.start(
        f"""
        def wait_at(gate):
            import os
            open(gate + "/arrived-it", "w").close()
            while not os.path.exists(gate + "/open"):
                time.sleep(0.005)
        future = executor.submit(wait_at, {gate.path!r})
        future.result()
        """
    )
    until(lambda: gate.arrived)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    gate.open()
    script.end(process)


def test_a_fork_of_the_script_leaves_the_executor_alone(script):
    code, out, err = script(
        """
        import os, warnings
        future = executor.submit(wait_and_return, 0.3, "apple")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), future.result(20), flush=True)
        """
    )
    assert (code, out, err) == (0, ["5 apple"], "")


def test_in_a_fork_executor_and_futures_say_that_they_are_not_there(script):
    code, out, err = script(
        """
        import asyncio, contextlib, io, os, warnings
        from civis_futures import as_completed, as_completed_async, progress
        done = executor.submit(abs, -7)
        done.result(20)
        pending = executor.submit(wait_and_return, 0.5, "apple")
        begun = as_completed([done, pending])
        next(begun)

        def quiet_progress():
            with contextlib.redirect_stderr(io.StringIO()):
                return progress([done, pending])

        uses = [
            lambda: executor.submit(abs, -1), lambda: executor.map(abs, [-1]),
            lambda: executor.submit_batch(abs, [(-1,)]), lambda: executor.put(b"x" * 2_000_000),
            pending.result, pending.exception, pending.cancel, pending.logs,
            lambda: pending.add_done_callback(print), quiet_progress,
            lambda: next(begun), lambda: list(as_completed([pending])),
            lambda: asyncio.run(as_completed_async([pending]).__anext__()),
            lambda: executor.scale(2),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            for use in uses:
                try:
                    print("no error:", use())
                except RuntimeError as error:
                    assert "of which this one is a fork" in str(error), error
            print(done.result(), len(executor.status()), executor, flush=True)
            executor.shutdown()  # returns at once
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pending.result(20), flush=True)
        """
    )
    assert (code, err) == (0, "")
    assert out[0].startswith("7 2 <ContainerPoolExecutor")
    assert out[1:] == ["5 apple"]


# --- other Pythons -----------------------------------------------------------------------------


@functools.cache
def python_with_us(version):
    """A Python of this version that can import this package, and what else it needs for it."""
    # Its own packages if it has some, else ours as far as they fit it.
    ours = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    for folder in os.get_exec_path():
        python = shutil.which(f"python{version}", path=folder)
        for environment in ({}, {"PYTHONPATH": ours}):
            if python is None:
                continue
            check = (
                "import sys, civis_futures, httpx, cloudpickle, tenacity\n"
                "import psutil, python_multipart, starlette, uvicorn\n"
                "print(*sys.version_info[:2], sep='.')"
            )
            found = subprocess.run(
                [python, "-c", check],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            if found.returncode == 0 and found.stdout.strip() == version:
                return python, environment
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("executor.submit(wait_and_return, 0.1, 'apple').add_done_callback(tell)", ["apple"]),
        (
            """
            @atexit.register
            def late():
                try:
                    executor.submit(id, None)
                except RuntimeError:
                    print("refused")
            """,
            ["refused"],
        ),
    ],
    ids=["work", "late"],
)
def test_other_pythons(script, until, version, body, expected):
    if version == "{}.{}".format(*sys.version_info):
        pytest.skip("it is this one")
    found = python_with_us(version)
    if found is None:
        pytest.skip(f"there is no Python {version} that can import civis_futures")
    python, environment = found
    # The platform has to run containers of the same version, so it is the script's own.
    prelude = PRELUDE.replace("max_tasks_per_worker=mode", 'platform="local"')
    code, out, err = script(body, python=python, prelude=prelude, **environment)
    assert (code, out, err) == (0, expected, "")
