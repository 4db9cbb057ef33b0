"""What user code does to its process, and what is left of the worker afterwards: everything."""

import contextlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from civis_futures import _wire
from civis_futures.worker._process import _oom_counters, _oom_kills


def exit_0():
    os._exit(0)


def exit_3():
    os._exit(3)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fault():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


class WhenUnpickled:
    def __init__(self, action):
        self.action = action

    def __reduce__(self):
        return self.action, ()


class WhenPickled:
    def __init__(self, action):
        self.action = action

    def __reduce__(self):
        self.action()


def unpickle(_):
    raise AssertionError("must not run")


def test_crash_table(run, calls, stub):
    """Each action in each place costs one call; its siblings never notice."""
    actions = {exit_0: "0", exit_3: "3", kill: "-9", fault: "-11"}
    places = {
        "call": lambda action: (unpickle, WhenUnpickled(action)),
        "run": lambda action: action,
        "result": lambda action: (WhenPickled, action),
    }
    specs, details = [], []
    for action, detail in actions.items():
        for place in places.values():
            specs += [place(action), os.getpid]
            details.append(detail)
    answers = run(calls(*specs))
    assert [answer.detail for answer in answers[::2]] == details
    assert {answer.kind for answer in answers[::2]} == {_wire.CRASHED}
    for answer in answers[::2]:
        assert answer.peak_mb > 5
        assert 0 < answer.started <= answer.finished
    pids = {stub.outcome(answer) for answer in answers[1::2]}
    assert len(pids) == len(answers) // 2  # each crash brought a new process
    texts = [answer.text for answer in answers[::2]]
    assert "exit code 3" in texts[3]
    assert "SIGKILL; perhaps out of memory" in texts[6]
    assert "SIGSEGV" in texts[9]


def leave_a_process(path, crash):
    """It holds the pipes open, and outlives its parent: until there is that file."""
    if os.fork() == 0:
        end = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.05)
        os._exit(0)
    if crash:
        os._exit(9)


def test_a_background_process_delays_nothing(run, calls, tmp_path):
    path = tmp_path / "end"
    try:  # the worker ends while those that were left go on
        left, crashed, after = run(
            calls(
                (leave_a_process, str(path), False), (leave_a_process, str(path), True), os.getpid
            )
        )
    finally:
        path.touch()
    assert (left.kind, after.kind) == (_wire.RETURNED, _wire.RETURNED)
    assert (crashed.kind, crashed.detail) == (_wire.CRASHED, "9")


def fork_and(ending):
    """The exit code of a fork that runs out of the function in this way."""
    pid = os.fork()
    if pid == 0:
        if ending == "raise":
            raise ValueError("in a fork")
        if ending != "return":
            sys.exit(ending)
        return "nobody hears this"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_that_leaves_its_function_ends_there(run, calls, stub):
    endings = ["return", "raise", 5, "a text", None]
    answers = run(calls(*((fork_and, ending) for ending in endings), os.getpid))
    assert [stub.outcome(answer) for answer in answers[:-1]] == [0, 1, 5, 1, 0]


def end(pool):
    """Gently: coverage may be in those processes, and is not to be interrupted."""
    pool.close()
    pool.join()


def use_processes_and_threads():
    seen = []
    thread = threading.Thread(target=seen.append, args=(1,))
    thread.start()
    thread.join()
    context = multiprocessing.get_context("fork")
    pool = context.Pool(2)
    seen += pool.map(abs, [-2, -3])
    end(pool)
    code = subprocess.run([sys.executable, "-c", "import sys; sys.exit(4)"]).returncode
    return [*seen, code, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sys.stdin.read()]


def test_user_code_may_use_processes_and_threads(run, calls, stub):
    [answer] = run(calls(use_processes_and_threads))
    assert stub.outcome(answer) == [1, 2, 3, 4, True, ""]


def spawn_processes():
    pool = multiprocessing.get_context("spawn").Pool(1)
    result = pool.map(abs, [-2])
    end(pool)
    return result


def test_user_code_may_spawn(run, calls, stub):
    [answer] = run(calls(spawn_processes))
    assert stub.outcome(answer) == [2]


def exit_later():
    def later():
        time.sleep(0.1)
        os._exit(7)

    threading.Thread(target=later, daemon=True).start()


def test_a_process_that_dies_between_calls_costs_no_call(stub, start, calls, put_inbox):
    inbox = put_inbox()
    worker = start(calls(exit_later), inbox=inbox.id, poll=0.05)
    stub.until_answered(1)
    stub.until(lambda: not worker.children() or state_of(worker.children()[0]) == "Z")
    inbox.write(calls(exit_0, os.getpid, first=2), stop=True)
    worker.end()
    assert [stub.answers()[task].kind for task in (2, 3)] == [_wire.CRASHED, _wire.RETURNED]


def state_of(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return "Z"


def register_hook(path):
    import atexit

    atexit.register(lambda: os.close(os.open(path, os.O_CREAT)))
    threading.Thread(target=time.sleep, args=(0.3,)).start()


def test_the_child_ends_like_an_interpreter(run, calls, tmp_path):
    path = tmp_path / "hook"
    begin = time.monotonic()
    run(calls((register_hook, str(path))))
    assert path.exists()
    assert time.monotonic() - begin > 0.3


def change_surroundings(folder):
    os.chdir(folder)
    os.environ["MARK"] = "set"


def test_surroundings_stay_changed(run, calls, stub, tmp_path):
    """As in the standard library's pools: a process is not cleaned between calls."""
    look = (lambda: (os.getcwd(), os.environ.get("MARK")),)[0]
    answers = run(calls((change_surroundings, str(tmp_path)), look))
    assert stub.outcome(answers[1]) == (str(tmp_path), "set")


def foreign_descriptors():
    """All but 0, 1, 2, and files: coverage may have its data open."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if fd > 2 and not stat.S_ISREG(os.fstat(fd).st_mode):
                yield fd


def close_all_descriptors():
    for fd in foreign_descriptors():
        os.close(fd)


def write_to_all_descriptors():
    written = 0
    for fd in foreign_descriptors():
        with contextlib.suppress(OSError):
            written += os.write(fd, b"rubbish")
    return written


def test_descriptors_that_are_not_the_functions_own(run, calls, stub):
    rubbish, closed, after = run(calls(write_to_all_descriptors, close_all_descriptors, os.getpid))
    assert stub.outcome(rubbish) > 0
    assert (closed.kind, closed.detail) == (_wire.CRASHED, "74")
    assert "pipe" in closed.text
    assert after.kind == _wire.RETURNED


def replace_stdout():
    import io

    sys.stdout = sys.stderr = io.StringIO()
    print("into the void")


def detach_stdout():
    print("before detach")
    sys.stdout.detach()


def write_binary():
    sys.stdout.buffer.write(b"\xff\x00\xfe\n")
    os.write(1, b"raw\n")


def close_descriptor():
    print("held", end="")
    os.close(1)


def redirect():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print("gone")


def remove_stdout():
    sys.stdout = None


BREAKERS = [
    lambda: sys.stdout.close(),
    lambda: sys.stderr.close(),
    replace_stdout,
    detach_stdout,
    write_binary,
    close_descriptor,
    redirect,
    remove_stdout,
]


def test_a_broken_stdout_is_whole_again_for_the_next_call(stub, start, calls):
    def say(number):
        print("line", number)
        print("error", number, file=sys.stderr)

    specs = []
    for number, breaker in enumerate(BREAKERS):
        specs += [breaker, (say, number)]
    worker = start(calls(*specs)).end()
    assert {answer.kind for answer in stub.answers().values()} == {_wire.RETURNED}
    lines = worker.out().splitlines()
    said = [line.removeprefix(b"held") for line in lines if b"line" in line]
    assert said == [b"line %d" % number for number in range(len(BREAKERS))]
    # What a closed descriptor held back comes out after all.
    assert any(line.startswith(b"held") for line in lines)
    assert worker.log().count("error") == len(BREAKERS)
    assert b"\xff\x00\xfe" in lines
    assert b"before detach" in lines
    assert b"gone" not in lines
    assert b"into the void" not in lines


SMALL_PIPES = """
import fcntl
from civis_futures.worker import _process
def small(real=_process.high_pipe):
    pipe = real()
    fcntl.fcntl(pipe[0], 1031, 4096)
    return pipe
_process.high_pipe = small
"""


@pytest.mark.skipif(sys.platform != "linux", reason="F_SETPIPE_SZ")
def test_pipes_smaller_than_what_they_carry(run, calls, stub):
    first, exits, last = run(
        calls((len, b"x" * 60_000), (exit_0_late, b"x" * 60_000), lambda: b"x" * 500_000),
        prelude=SMALL_PIPES,
    )
    assert stub.outcome(first) == 60_000
    assert exits.kind == _wire.CRASHED
    assert stub.outcome(last) == b"x" * 500_000


def exit_0_late(_):
    os._exit(0)


def print_much():
    for _ in range(10_000):
        print("x" * 1023)


def test_ten_megabytes_of_log(stub, start, calls):
    worker = start(calls(print_much, lambda: print("end", end=""))).end()
    out = worker.out()
    lines = [line for line in out.splitlines() if not line.startswith(b"civis_futures: task")]
    # Each call begins on a line of its own, whatever was before.
    assert lines == [b"x" * 1023] * 10_000 + [b"", b"end"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("low 0\nhigh 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n", 12),
        ("", 0),
    ],
)
def test_the_kernels_count_of_memory_kills(tmp_path, text, count):
    path = tmp_path / "events"
    path.write_text(text)
    assert _oom_kills((str(path), str(tmp_path / "missing"))) == count


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "folders", "own"),
    [
        # A job on a machine with one tree, and with two.
        ("0::/slurm/job_7/task_0\n", [f"{V2}/slurm/job_7/task_0"], f"{V2}/slurm/job_7/task_0"),
        (
            "9:name=systemd:/init\n4:cpu,memory:/slurm/job:7\n0::/\n",
            [f"{V1}/slurm/job:7"],
            f"{V1}/slurm/job:7",
        ),
        # A container with a namespace for its groups, and one without: the path is the machine's.
        ("0::/\n", [], V2),
        ("4:memory:/\n0::/\n", [], V1),
        ("4:memory:/docker/abc\n", [], V1),
        ("0::/docker/abc\n", [], V2),
        # A group that is outside of the namespace.
        ("0::/../elsewhere\n", ["sys/fs/elsewhere"], V2),
        ("what is this?\n", [], V2),
        (None, [], V1),
    ],
)
def test_the_groups_whose_memory_kills_count(tmp_path, groups, folders, own):
    """Its own ones, where it can see them."""
    for folder in ("proc/self", V1, *folders):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    if groups is not None:
        (tmp_path / "proc/self/cgroup").write_text(groups)
    name = "memory.oom_control" if own.startswith(V1) else "memory.events"
    for place in {V2, V1, "sys/fs/elsewhere", own}:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / own / name).write_text("oom_kill 3\n")
    assert _oom_kills(_oom_counters(str(tmp_path))) == 3
    if own not in (V2, V1):
        root = V1 if own.startswith(V1) else V2
        (tmp_path / root / name).write_text("oom_kill 5\n")  # of others
        assert _oom_kills(_oom_counters(str(tmp_path))) == 3


@pytest.fixture
def small_group():
    """A group of 200 MB below the one that we are in; the file that takes its members."""
    for tree, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        parent = os.path.dirname(_oom_counters()[tree.endswith("memory")])
        folder = os.path.join(parent, f"civis-futures-test-{os.getpid()}")
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            with open(os.path.join(folder, limit), "w") as file:
                file.write(str(200 * 2**20))
            yield os.path.join(folder, "cgroup.procs")
        except OSError:  # the tree has no account of memory
            continue
        finally:
            deadline = time.monotonic() + 10
            while os.path.exists(folder):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                assert time.monotonic() < deadline, "it still has members"
                time.sleep(0.01)
        return
    pytest.skip("this user may not make groups with a limit on memory here")


def test_a_memory_kill_in_a_group_of_the_machines_tree(stub, start, calls, small_group):
    """As in a job of a cluster: the root of the tree counts nothing of it."""
    move = f"open({small_group!r}, 'w').write(str(__import__('os').getpid()))"
    start(calls(lambda: len(bytearray(2**30)), lambda: "fine"), prelude=move).end()
    lost, fine = (stub.answers()[task] for task in (1, 2))
    assert "the container ran out of memory" in lost.text
    assert stub.outcome(fine) == "fine"
