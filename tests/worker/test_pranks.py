"""What user code does to its process, folder, clock or limits costs its own call at most."""

import gc
import locale
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import cloudpickle
import pytest
from tasks import by_value

from civis_futures import _wire

by_value(__name__)


def empty_tmpdir():
    """As `rm -rf $TMPDIR/*` does."""
    for entry in os.scandir(os.environ["TMPDIR"]):
        shutil.rmtree(entry.path)


def mock_clocks():
    for name in ("time", "time_ns", "monotonic", "perf_counter", "sleep", "localtime"):
        setattr(time, name, lambda *_: object())


def freeze_clocks():
    time.time = lambda: 0.0
    time.perf_counter = lambda: float("nan")


def odd_clocks():
    time.time = time.perf_counter = lambda: "now"


def leave_folder():
    folder = os.path.join(os.environ["TMPDIR"], "mine")
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(folder)


def forbid_files():
    os.umask(0o777)


def close_low_descriptors():
    os.closerange(0, 900)


def clear_environment():
    os.environ.clear()


def set_signals():
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    time.sleep(0.005)


def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))


def purge_modules():
    for name in list(sys.modules):
        if name not in ("builtins", "sys", "_frozen_importlib"):
            del sys.modules[name]


def empty_modules():
    sys.modules.clear()
    sys.path.clear()
    sys.meta_path.clear()


def patch_builtins():
    import builtins

    def refuse(*_, **__):
        raise RuntimeError("patched")

    for name in ("open", "print", "len", "isinstance", "type", "getattr", "min", "repr", "str"):
        setattr(builtins, name, refuse)


def patch_os():
    def refuse(*_, **__):
        raise RuntimeError("patched")

    for name in ("read", "write", "open", "unlink", "getpid", "dup2"):
        setattr(os, name, refuse)


def patch_pickle():
    import io
    import json
    import pickle

    pickle.dumps = pickle.Pickler = pickle.Unpickler = json.dumps = json.loads = io.BytesIO = None


def set_locale():
    locale.setlocale(locale.LC_ALL, "C")


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def no_descriptors_for_good():
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def no_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def new_session():
    os.setpgid(0, os.getppid() and os.getpgid(os.getppid()))


def no_collector():
    gc.disable()


def strict_warnings():
    warnings.simplefilter("error")


def no_recursion():
    sys.setrecursionlimit(60)


def trace():
    def tracer(*_):
        raise RuntimeError("traced")

    sys.settrace(tracer)
    sys.setprofile(lambda *_: None)


def exception_hook():
    sys.excepthook = sys.unraisablehook = None
    sys.stdout = sys.stderr = sys.stdin = 3


def nonblocking():
    for number in (1, 2):
        os.set_blocking(number, False)


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (50_000_000, 50_000_000))


def answers_nobody_reads():
    """A handler that is called when anything is written."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def exit_later():
    import atexit

    atexit.register(os.kill, os.getpid(), signal.SIGKILL)


PRANKS = [
    empty_tmpdir, mock_clocks, freeze_clocks, odd_clocks, leave_folder, forbid_files,
    close_low_descriptors, clear_environment, set_signals, block_signals, purge_modules,
    empty_modules, patch_builtins, patch_os, patch_pickle, set_locale, few_descriptors,
    no_descriptors_for_good, no_files, new_session, no_collector, strict_warnings, no_recursion,
    trace, exception_hook, nonblocking, little_memory, answers_nobody_reads, exit_later,
]  # fmt: skip


def plain(number):
    print("here", number)
    return number


def large():
    return b"x" * 2_000_000


def in_a_file(stub, task, *parts):
    data = cloudpickle.dumps((*parts, {}))
    blob = _wire.Blob.in_file(stub.put_file(data), _wire.digest(data), len(data))
    return _wire.Call(task, blob)


@pytest.mark.parametrize("prank", PRANKS, ids=lambda prank: prank.__name__)
def test_a_prank_costs_its_own_call_at_most(stub, start, calls, prank):
    before = time.time()
    made = calls((plain, 1), prank, (plain, 2), large)
    made += (in_a_file(stub, 5, len, (b"x" * 100_000,)), *calls((plain, 6), first=6))
    start(made, pacing={"request": 5.0}).end()
    answers = stub.answers()
    assert set(answers) == {1, 2, 3, 4, 5, 6}
    assert stub.outcome(answers[1]) == 1
    told = {task: answer.text for task, answer in answers.items() if task != 2 and answer.text}
    assert told == {}
    assert [stub.outcome(answers[task]) for task in (3, 5, 6)] == [2, 100_000, 6]
    assert len(stub.outcome(answers[4])) == 2_000_000
    for answer in answers.values():
        assert before - 1 <= answer.started <= answer.finished <= time.time() + 1, answer
        assert 0 <= answer.seconds < 60


def dies_between_calls():
    """It takes its process along once its answer is there."""
    real = os.read

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL) if real.__name__ == "read" else None

    os.read = die


def test_a_call_that_was_not_begun_runs_in_another_process(stub, start, calls):
    start(calls(dies_between_calls, (plain, 1), dies_between_calls, (plain, 2))).end()
    answers = stub.answers()
    assert [stub.outcome(answers[task]) for task in (2, 4)] == [1, 2]


def clears_what_was_there():
    os.environ.pop("HOME", None)
    os.environ.pop("PATH", None)
    os.environ["MINE"] = "stays, as a library's does"
    folder = os.path.join(os.environ["TMPDIR"], "mine")
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(folder)
    os.umask(0o777)
    sys.setrecursionlimit(100)
    gc.disable()
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", BytesWarning)
    signal.alarm(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def what_is_there():
    umask = os.umask(0o22)
    os.umask(umask)
    strict = [each for each in warnings.filters if each[0] == "error"]
    state = os.environ.get("PATH"), os.getcwd(), umask, sys.getrecursionlimit(), gc.isenabled()
    return os.getpid(), *state, strict, signal.alarm(0), resource.getrlimit(resource.RLIMIT_NOFILE)


def what_stays():
    return os.environ["MINE"], ("ignore", BytesWarning) in [
        each[0:3:2] for each in warnings.filters
    ]


def test_what_a_call_leaves_behind_is_put_back(run, calls, stub):
    answers = run(calls(what_is_there, clears_what_was_there, what_is_there, what_stays))
    before, _, after, stays = map(stub.outcome, answers)
    assert before == after
    assert stays == ("stays, as a library's does", True)


def set_up():
    os.chdir("/")
    os.umask(0)
    sys.setrecursionlimit(100)
    gc.disable()


def test_what_the_initializer_did_stays(run, calls, stub):
    first = cloudpickle.dumps((set_up, (), {}))
    for answer in run(calls(what_is_there, what_is_there), initializer=_wire.Blob.of(first)):
        assert stub.outcome(answer)[2:6] == ("/", 0, 100, False)


def ignore_children():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def die_of_pipes():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def leave_timers():
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0.1)


def exit_soon():
    import faulthandler

    faulthandler.dump_traceback_later(0.2, exit=True)


def forget_where_modules_are():
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = sys.meta_path[:1]


def become_nobody():
    os.setegid(65534)
    os.seteuid(65534)


def become_nobody_for_good():
    os.setgid(65534)
    os.setuid(65534)


def works(module):
    """What a process can do: subprocesses, pipes, imports, files; and it lives on for a while."""
    computed, passed = time.process_time() + 0.2, time.monotonic() + 0.4
    while time.process_time() < computed or time.monotonic() < passed:
        pass
    readable, writable = os.pipe()
    os.close(readable)
    try:
        os.write(writable, b"x")
    except BrokenPipeError:
        os.close(writable)
    __import__(module)
    with tempfile.TemporaryFile():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return subprocess.run(["false"], check=False).returncode, mask, os.geteuid(), os.getegid()


@pytest.mark.parametrize(
    "prank",
    [
        ignore_children, die_of_pipes, block_signals, leave_timers, exit_soon,
        forget_where_modules_are,
        *([become_nobody, become_nobody_for_good] if os.geteuid() == 0 else []),
    ],
    ids=lambda prank: prank.__name__,
)  # fmt: skip
def test_later_calls_can_do_what_they_could_before(run, calls, stub, prank):
    answers = run(calls((works, "colorsys"), prank, (works, "sched")))
    before, _, after = map(stub.outcome, answers)
    assert before == after == (1, set(), os.geteuid(), os.getegid())
