"""The kernel's groups of processes that this one is in, and how many cores it may use by them.

Part of the parent. It knows files of the kernel, and no platform.
"""

from __future__ import annotations

import os

#: Where the groups are: of cgroup v2, and of the controllers of v1.
_TREE = "sys/fs/cgroup"
#: What numerical libraries read when they are loaded.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def own_groups(controller: str, root: str = "/") -> tuple[str, str]:
    """The folders of this process's own groups: in cgroup v2, and for that controller in v1.

    In a container the tree's root is its own group. A job of a cluster shares the machine's tree:
    there the root counts what happens to others, or nothing. A container without a namespace of its
    own for groups is told a path that leads nowhere in it; then it is the root again.
    """
    paths = ["/", "/"]
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            for line in file:
                _, kinds, path = line.rstrip("\n").split(":", 2)
                if not kinds or controller in kinds.split(","):
                    paths[bool(kinds)] = path
    except (OSError, ValueError):
        pass  # no Linux
    second, first = paths
    return _group(root, _TREE, second), _group(root, os.path.join(_TREE, controller), first)


def _group(root: str, tree: str, path: str) -> str:
    group = os.path.join(root, tree, path.lstrip("/"))
    if ".." in path.split("/") or not os.path.isdir(group):
        group = os.path.join(root, tree)
    return group


def share_cores(asked: float, root: str = "/", processes: int = 1) -> None:
    """Have numerical libraries start as many threads as the container has cores for each of the
    `processes`: unless they are told otherwise, it is as many as the machine has. `asked` is what
    the container was asked for, for where the kernel has no quota; 0 if that is not known.

    Who has set `OMP_NUM_THREADS` has set it for all of them, since the others read it as well.
    """
    cores = _quota(root) or asked
    if cores and "OMP_NUM_THREADS" not in os.environ:
        for name in _VARIABLES:
            os.environ.setdefault(name, str(max(1, int(cores / processes))))


def _quota(root: str) -> float:
    """How many cores the kernel gives this process; 0 if it sets no limit."""
    second, first = own_groups("cpu", root)
    in_first = [os.path.join(first, f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    for paths in [os.path.join(second, "cpu.max")], in_first:
        try:
            quota, period = map(float, " ".join(map(_text, paths)).split())
            if quota > 0:  # v1 says -1 where there is none, and v2 "max"
                return quota / period
        except (OSError, ValueError):
            pass
    return 0.0


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()
