"""`worker_processes`: one container runs several calls at once, each in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures import ContainerPoolExecutor

by_value(__name__)


def place():
    """Which process this is, and of which worker."""
    return os.getpid(), os.getppid()


def meet(folder, name, others):
    """Come to a place, and wait until so many have come."""
    Path(folder, name).touch()
    while len(os.listdir(folder)) < others:
        time.sleep(0.01)
    return place()


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return place()


def arrive_and_wait(here, path):
    Path(here).write_text(str(os.getpid()))
    return wait_for(path)


@pytest.fixture
def make(make_executor):
    def make(max_workers=3, worker_processes=3, **options):
        return make_executor(max_workers, worker_processes=worker_processes, **options)

    return make


def test_a_container_runs_several_calls_at_once(make, tmp_path):
    executor = make()
    futures = [executor.submit(meet, str(tmp_path), str(n), 3) for n in range(3)]
    processes, workers = zip(*(future.result() for future in futures), strict=True)
    assert len(set(processes)) == 3
    assert len(set(workers)) == 1
    assert executor.report().starts == 1


def test_there_are_as_many_containers_as_the_calls_need(make, tmp_path):
    executor = make(5, 2)
    futures = [executor.submit(meet, str(tmp_path), str(n), 5) for n in range(5)]
    workers = [future.result()[1] for future in futures]
    assert sorted(map(workers.count, set(workers))) == [1, 2, 2]
    assert executor.report().starts == 3


def test_a_killed_process_costs_its_call_alone(make, tmp_path):
    executor, path = make(), str(tmp_path / "open")
    here = [str(tmp_path / f"here-{n}") for n in range(3)]
    futures = [executor.submit(arrive_and_wait, each, path) for each in here]
    for each in here:
        wait_for(each)
    os.kill(int(Path(here[1]).read_text()), signal.SIGKILL)
    with pytest.raises(cf.WorkerCrashedError, match="SIGKILL"):
        futures[1].result()
    assert not futures[0].done()
    assert executor.submit(place).result()[0] > 0  # there is room for another one
    Path(path).touch()
    assert futures[0].result()[1] == futures[2].result()[1]
    assert executor.report().starts == 1


def test_a_killed_process_and_a_retry(make, tmp_path):
    def once(path):
        if not os.path.exists(path):
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "again"

    executor = make()
    future = executor.options(max_retries=1).submit(once, str(tmp_path / "was-here"))
    assert future.result() == "again"


def test_cancel_and_timeout_end_one_process(make, tmp_path):
    executor, path = make(), str(tmp_path / "open")
    here = [str(tmp_path / f"here-{n}") for n in range(3)]
    stays = executor.submit(arrive_and_wait, here[0], path)
    late = executor.options(timeout=1.0).submit(arrive_and_wait, here[1], path)
    cancelled = executor.submit(arrive_and_wait, here[2], path)
    for each in here:
        wait_for(each)
    assert cancelled.cancel()
    with pytest.raises(cf.TaskTimeoutError, match="timeout of 1 s"):
        late.result()
    pid = int(Path(here[2]).read_text())
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)
    assert not stays.done()
    Path(path).touch()
    assert stays.result()[0] == int(Path(here[0]).read_text())
    assert executor.report().starts == 1


def test_the_initializer_runs_once_in_each_process(make, tmp_path):
    def note(folder):
        Path(folder, f"begun-{os.getpid()}").touch()

    (tmp_path / "meet").mkdir()
    executor = make(initializer=note, initargs=(str(tmp_path),))
    for _ in range(2):
        futures = [executor.submit(meet, str(tmp_path / "meet"), str(n), 3) for n in range(3)]
        processes = {future.result()[0] for future in futures}
        assert {f"begun-{pid}" for pid in processes} <= set(os.listdir(tmp_path))
    assert sum(name.startswith("begun") for name in os.listdir(tmp_path)) == 3


def test_what_calls_print_is_kept_apart(make, tmp_path):
    def speak(folder, name):
        meet(folder, name, 3)
        for number in range(20):
            print(f"{name} says {number}", flush=True)
            os.write(2, f"{name} moans {number}\n".encode())
            time.sleep(0.002)
        os.system(f"echo {name} has a child")

    executor = make()
    futures = {name: executor.submit(speak, str(tmp_path), name) for name in "abc"}
    for future in futures.values():
        future.result()
    executor.shutdown()
    for name, future in futures.items():
        lines = [line.message for line in future.logs()]
        said = [f"{name} says {n}" for n in range(20)] + [f"{name} has a child"]
        assert [line for line in lines if "moans" not in line] == said
        assert [line for line in lines if "moans" in line] == [
            f"{name} moans {n}" for n in range(20)
        ]


def test_max_tasks_per_worker_counts_for_the_container(make):
    executor = make(2, 2, max_tasks_per_worker=4)
    workers = [worker for _, worker in executor.map(lambda _: place(), range(8))]
    assert max(map(workers.count, workers)) <= 4
    assert executor.report().starts == len(set(workers)) <= 3


def test_a_session_is_opened_again(platform, tmp_path, make_executor):
    name = f"processes-{os.getpid()}-{tmp_path.name}"
    with ContainerPoolExecutor(3, platform=platform, worker_processes=3, session=name) as executor:
        futures = [executor.submit(meet, str(tmp_path), str(n), 3) for n in range(3)]
        first = [future.result() for future in futures]
    with ContainerPoolExecutor(3, platform=platform, worker_processes=3, session=name) as executor:
        futures = [executor.submit(meet, str(tmp_path), str(n), 3) for n in range(3)]
        assert [future.result() for future in futures] == first
        assert executor.report().starts == 0


def test_cores_are_shared_out(make):
    def threads():
        return os.environ["OMP_NUM_THREADS"]

    executor = make(2, 2, container=cf.Container(required_resources={"cpu": 6144}))
    assert executor.submit(threads).result() == "3"


@pytest.mark.parametrize("number", [0, -1])
def test_out_of_range(number):
    with pytest.raises(ValueError, match="worker_processes must be 1 or more"):
        ContainerPoolExecutor(worker_processes=number, platform="local")


@pytest.mark.parametrize("number", [1.5, True, "2", None])
def test_no_number(number):
    with pytest.raises(TypeError, match="worker_processes must be an integer"):
        ContainerPoolExecutor(worker_processes=number, platform="local")


def test_fewer_and_more_at_once(make, tmp_path):
    """`scale` counts calls, and starts count containers."""
    executor = make(2, 2)
    (tmp_path / "two").mkdir()
    futures = [executor.submit(meet, str(tmp_path / "two"), str(n), 2) for n in range(2)]
    assert len({future.result()[1] for future in futures}) == 1
    executor.scale(5)
    (tmp_path / "five").mkdir()
    futures = [executor.submit(meet, str(tmp_path / "five"), str(n), 5) for n in range(5)]
    workers = [future.result()[1] for future in futures]
    assert sorted(map(workers.count, set(workers))) == [1, 2, 2]
    assert executor.report().starts == 3


def test_what_is_shown_of_it(make, tmp_path):
    executor, path = make(5, 2), str(tmp_path / "open")
    here = [str(tmp_path / f"here-{n}") for n in range(2)]
    futures = [executor.submit(arrive_and_wait, each, path) for each in here]
    for each in here:
        wait_for(each)
    while not all(future.running() for future in futures):
        time.sleep(0.01)
    assert len({status["worker"] for status in executor.status()}) == 1
    Path(path).touch()
    for future in futures:
        future.result()
    report = executor.report()
    assert report.worker_processes == 2
    assert "1 started, 1 at once of 3, 1 running now, 2 calls in each" in str(report)
    assert "up to 5 workers, 2 in a container, on" in executor._repr_html_()


def test_a_number_of_numpy(make):
    executor = make(2, np.int64(2))
    assert executor.submit(int, "7").result() == 7
