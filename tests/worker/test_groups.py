"""How many threads numerical libraries are told to start, by the kernel's quota or as asked for."""

import os

import pytest

from civis_futures.worker._groups import share_cores

NAMES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "1")  # so that it is put back
        monkeypatch.delenv(name)


def told():
    return [os.environ.get(name) for name in NAMES]


@pytest.mark.parametrize(("asked", "threads"), [(0.25, "1"), (1.0, "1"), (1.024, "1"), (4.0, "4")])
def test_as_many_as_asked_for(tmp_path, asked, threads):
    share_cores(asked, str(tmp_path))
    assert told() == [threads] * 3


def test_none_is_told_where_nobody_knows(tmp_path):
    share_cores(0, str(tmp_path))
    assert told() == [None] * 3


@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_of_the_kernel_counts_more(tmp_path, version):
    group = tmp_path / "sys/fs/cgroup" / ("" if version == 2 else "cpu") / "job"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    line = "0::/job" if version == 2 else "3:cpuacct,cpu:/job"
    (tmp_path / "proc/self/cgroup").write_text(f"7:pids:/other\n{line}\n")
    if version == 2:
        (group / "cpu.max").write_text("300000 100000\n")
    else:
        (group / "cpu.cfs_quota_us").write_text("300000\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
    share_cores(1.0, str(tmp_path))
    assert told() == ["3"] * 3


@pytest.mark.parametrize(("name", "content"), [("cpu.max", "max 100000"), ("cpu.max", "?")])
def test_a_group_without_a_quota(tmp_path, name, content):
    folder = tmp_path / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    share_cores(2.0, str(tmp_path))
    assert told() == ["2"] * 3


def test_what_image_or_user_has_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    share_cores(2.0, str(tmp_path))
    assert told() == ["2", "2", "7"]


def test_of_them_one_is_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_cores(2.0, str(tmp_path))
    assert told() == ["7", None, None]


def test_calls_see_it(stub, start, calls):
    start(calls((os.getenv, "OMP_NUM_THREADS")), cores=3.5).end()
    assert stub.outcome(stub.answers()[1]) in (
        "1",
        "2",
        "3",
    )  # the machine that tests may have a quota
