"""What runs can run on, and how users say so: small frozen options, checked, with names for errors.

They cross to the server's process as JSON, with its settings. It knows no engine: how each one is
asked to run something is written elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

ONLY_US = "platform"  # a network in which there is nothing else


class Options:
    """What all options have in common: what is wrong is said, with the nearest name."""

    name = ""

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Refuse names of options that there are not."""
        known = _fields(cls)
        for option in given:
            if option not in known:
                raise TypeError(
                    f"{cls.__name__} has no option {option!r}: {_nearest(option, known)}"
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Take lists for tuples, and refuse what is of another type."""
        for option, kind in _fields(type(self)).items():
            value = getattr(self, option)
            if kind.startswith("tuple") and isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, option, value)
            if not _is(value, kind):
                raise ValueError(
                    f"{option} of {type(self).__name__} must be {_in_words(kind)}, not {value!r}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` understands."""
        return {"name": self.name, **vars(self)}


@dataclasses.dataclass(frozen=True)
class Processes(Options):
    """Each run is a process of this machine, with your rights, in your environment; the default."""

    name = "process"


@dataclasses.dataclass(frozen=True)
class Podman(Options):
    """Each run is a podman container of this machine, with its script's image and memory.

    Args:
        command: The command for podman, perhaps with options: ``"podman --runtime runc"``.
        network: The network of the containers. By default, they reach the platform and nothing
            else, which needs Linux and root. With ``"host"``, they reach all that this machine
            reaches. Other values are those of ``podman run --network``, if the platform can be
            reached on that network.
        user: The user within the container. By default, the image's.
        extra: Additional options of ``podman run``, each a str of its own.
    """

    name = "podman"

    command: str = "podman"
    network: str = ONLY_US
    user: str | None = None
    extra: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Docker(Options):
    """Each run is a docker container of this machine, with its script's image and memory.

    Args:
        command: The command for docker, perhaps with options.
        network: The network of the containers, as for ``docker run --network``. The platform
            listens on loopback, which containers reach with ``"host"``.
        user: The user within the container. By default, the image's.
        extra: Additional options of ``docker run``, each a str of its own.
    """

    name = "docker"

    command: str = "docker"
    network: str = "host"
    user: str | None = None
    extra: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Slurm(Options):
    """Each run is a job of a Slurm cluster, with its script's cores and memory.

    Args:
        partition: ``sbatch --partition``. By default, the cluster's default partition.
        account: ``sbatch --account``.
        qos: ``sbatch --qos``.
        time_limit: Seconds after which Slurm ends a run; Slurm rounds them to minutes. By
            default, the partition's limit.
        extra: Additional options of ``sbatch``, each a str of its own.
        setup: A shell command that each job runs first, such as ``"module load python"``.
        pause: Seconds between two calls of ``squeue``, at least.
        lease: Seconds after which a run ends if the platform does not answer.
    """

    name = "slurm"

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_limit: int | None = None
    extra: tuple[str, ...] = ()
    setup: str | None = None
    pause: int = 5
    lease: int = 60


@dataclasses.dataclass(frozen=True)
class OwnScheduler(Options):
    """Each run is a job of another scheduler, for which you write a file with three functions.

    Args:
        file: The Python file. The page on the engines' protocol says what must be in it.
        options: Values for its function ``configure``, each as ``NAME=VALUE``.
        setup: A shell command that each job runs first.
        pause: Seconds between two calls of its function ``look``, at least.
        lease: Seconds after which a run ends if the platform does not answer.
    """

    name = "own"

    file: str
    options: tuple[str, ...] = ()
    setup: str | None = None
    pause: int = 5
    lease: int = 60


Engine = Processes | Podman | Docker | Slurm | OwnScheduler
EVERY: dict[str, type[Engine]] = {
    kind.name: kind for kind in (Processes, Podman, Docker, Slurm, OwnScheduler)
}


def chosen(given: str | Engine) -> Engine:
    """Return what was asked for, by its name or as it is; raises ValueError, or TypeError."""
    if isinstance(given, str):
        if given not in EVERY:
            raise ValueError(f"there is no engine {given!r}: {_nearest(given, EVERY)}")
        if given == OwnScheduler.name:
            raise ValueError('the engine "own" needs its file: OwnScheduler(file=...)')
        return EVERY[given]()  # type: ignore[call-arg]  # the one that needs some is told of above
    if not isinstance(given, Engine):
        names = " or ".join(f'"{name}"' for name in EVERY)
        more = f": {given.__name__} is a class" if isinstance(given, type) else ""
        raise TypeError(
            f"engine must be {names}, or an object such as Podman(), not {given!r}{more}"
        )
    return given


def from_json(given: Mapping[str, Any]) -> Engine:
    """Read what `to_json` returned."""
    options = dict(given)
    return EVERY[options.pop("name")](**options)


def from_texts(name: str, texts: Iterable[str]) -> Engine:
    """Read options as a command line has them, `NAME=VALUE`; raises ValueError.

    An option that takes several values is given several times.
    """
    if name not in EVERY:
        raise ValueError(f"there is no engine {name!r}: {_nearest(name, EVERY)}")
    kind = EVERY[name]
    known = _fields(kind)
    options: dict[str, Any] = {}
    for text in texts:
        option, found, value = text.partition("=")
        option = option.replace("-", "_")
        if not found:
            raise ValueError(f"an option is NAME=VALUE, not {text!r}")
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: {_nearest(option, known)}")
        if known[option].startswith("tuple"):
            options.setdefault(option, []).append(value)
        elif known[option].startswith("int"):
            if not value.isdecimal():
                raise ValueError(f"{option} of {name} is a number, not {value!r}")
            options[option] = int(value)
        else:
            options[option] = value
    if kind is OwnScheduler and "file" not in options:
        raise ValueError('the engine "own" needs its file: file=...')
    return kind(**options)


def _fields(kind: type[Any]) -> dict[str, str]:
    """Return the options with their types, as they are written above."""
    return {field.name: str(field.type) for field in dataclasses.fields(kind)}


def _is(value: Any, kind: str) -> bool:
    if value is None:
        return kind.endswith("None")
    if kind.startswith("tuple"):
        return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    if kind.startswith("int"):
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    return isinstance(value, str) and value != ""


def _in_words(kind: str) -> str:
    """Return what values an option takes."""
    if kind.startswith("tuple"):
        return "a tuple or list of str"
    said = "a whole number above 0" if kind.startswith("int") else "a str that is not empty"
    return said + " or None" * kind.endswith("None")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    there = ", ".join(known) or "none"
    return f"did you mean {near[0]!r}?" if near else f"there are {there}"
