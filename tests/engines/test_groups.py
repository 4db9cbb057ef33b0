"""Control groups of version 2, by files that look like them: who tests may have version 1.

With version 1 they are tested with real containers, and real groups.
"""

from __future__ import annotations

import subprocess

import pytest

from civis_futures.local._engines import groups


def test_version_2(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    assert groups.tree() == tmp_path
    group = groups.Group("ours/run", 100)
    folder = tmp_path / "ours" / "run"
    assert (folder / "memory.max").read_text() == str(100 * 2**20)
    assert (group.killed_for_memory(), group.peak_memory(), group.pids()) == (False, 0.0, [])
    (folder / "memory.events").write_text("low 0\nmax 90\noom 1\noom_kill 0\n")
    assert not group.killed_for_memory(), "what was reclaimed is no kill"
    (folder / "memory.events").write_text("low 0\nmax 90\noom 1\noom_kill 1\n")
    (folder / "memory.peak").write_text(str(99 * 2**20))
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert (group.killed_for_memory(), group.peak_memory(), group.cpu_seconds()) == (True, 99, 1.5)
    for name, pid in (("container", 7), ("container/deeper", 8), ("conmon", 9)):
        (folder / name).mkdir()
        (folder / name / "cgroup.procs").write_text(f"{pid}\n")
    assert group.pids() == [7, 8], "who watches over the container is not in it"


def test_no_memory_controller(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    assert groups.tree() is None
    (tmp_path / "cgroup.subtree_control").write_text("cpu pids")
    assert groups.tree() is None


@pytest.mark.skipif(
    groups.tree() != groups.ROOT / "memory", reason="there are no groups of version 1 to be made"
)
def test_a_group_is_gone_when_it_is_gone_from_each_tree(tmp_path):
    """A process may have ended when one tree is looked at, and not when the one before was."""
    name = f"civis-test-{tmp_path.name}/run"
    group = groups.Group(name, 100)
    other = groups.ROOT / "cpuacct" / name
    other.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as process:
        (other / "cgroup.procs").write_text(str(process.pid))
        assert not group.remove()
        process.kill()
    assert group.remove()
    assert not list(groups.ROOT.glob(f"*/civis-test-{tmp_path.name}"))
