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
    """Each run is a container of this machine, in the image and with the memory of its script.

    Args:
        command: How podman is called, with its own options, if any: ``"podman --runtime runc"``.
        network: What the containers reach. By default the platform and nothing else, which needs
            Linux and root; with ``"host"`` all that this machine reaches; or another network that
            ``podman run --network`` takes and on which the platform can be reached.
        user: Whom the command runs as, within the container. Default: the image's.
        extra: More options of ``podman run``.
    """

    name = "podman"

    command: str = "podman"
    network: str = ONLY_US
    user: str | None = None
    extra: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Docker(Options):
    """The same with docker.

    Args:
        command: How docker is called, with its own options, if any.
        network: What the containers reach, as ``docker run --network`` takes it. The platform
            listens on loopback, which is reached with ``"host"``.
        user: Whom the command runs as, within the container. Default: the image's.
        extra: More options of ``docker run``.
    """

    name = "docker"

    command: str = "docker"
    network: str = "host"
    user: str | None = None
    extra: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Slurm(Options):
    """Each run is a job of a Slurm cluster, with the cpu and the memory of its script.

    Args:
        partition: ``sbatch --partition``. Default: the cluster's.
        account: ``sbatch --account``.
        qos: ``sbatch --qos``.
        time_limit: Seconds after which Slurm ends a run; it counts in minutes. Default: the
            partition's limit.
        extra: More options of ``sbatch``.
        setup: What each job does first, for the node's shell: ``"module load python"``.
        pause: Seconds between two calls of ``squeue``, at least.
        lease: Seconds after which a run ends whose platform does not answer.
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
    """Each run is a job of a scheduler of your own: three functions, in a file of Python.

    Args:
        file: The file; the page on the protocol says what it has to have.
        options: What its function ``configure`` is given, each as ``NAME=VALUE``.
        setup: What each job does first, for its machine's shell.
        pause: Seconds between two calls of its function ``look``, at least.
        lease: Seconds after which a run ends whose platform does not answer.
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
        raise TypeError(f"engine must be {names}, or the options of one, not {given!r}")
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
    near = difflib.get_close_matches(name, known, n=1)
    there = ", ".join(known) or "none"
    return f"did you mean {near[0]!r}?" if near else f"there are {there}"
