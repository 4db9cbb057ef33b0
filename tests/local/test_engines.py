"""What users say of engines: names and options, and what is wrong with them."""

from __future__ import annotations

import inspect
import json

import pytest

from civis_futures.local import Docker, LocalPlatform, Podman, Slurm
from civis_futures.local._engines import options
from civis_futures.local._settings import Settings


@pytest.mark.parametrize(
    "given",
    ["process", "podman", "docker", "slurm", Podman(network="host", extra=["--tls"]),
     Docker(user="1:2"), Slurm(partition="main", time_limit=60)],
)  # fmt: skip
def test_they_cross_to_the_server_as_json(given):
    settings = Settings(engine=options.chosen(given).to_json())
    read = Settings.from_json(json.dumps(settings.to_json()))
    assert options.from_json(read.engine) == options.chosen(given)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: LocalPlatform(engine="podmn"), ValueError, "'podmn': did you mean 'podman"),
        (lambda: LocalPlatform(engine="x"), ValueError, "there are process, podman, docker, slurm"),
        (lambda: LocalPlatform(engine="SLURM"), ValueError, "'SLURM': did you mean 'slurm'"),
        (lambda: LocalPlatform(engine=None), TypeError, "or an object such as Podman.., not None"),
        (lambda: LocalPlatform(engine=Slurm), TypeError, "Slurm is a class$"),
        (lambda: Podman(netwrk="host"), TypeError, "no option 'netwrk': did you mean 'network'"),
        (lambda: Podman(extra="--tls"), ValueError, "must be a tuple or list of str, not"),
        (lambda: Podman(network=""), ValueError, "network of Podman must be"),
        (lambda: Slurm(time_limit=0), ValueError, "must be a whole number above 0 or None, not 0"),
        (lambda: options.from_texts("slurm", ["partion=a"]), ValueError, "mean 'partition'"),
        (lambda: options.from_texts("slurm", ["partition"]), ValueError, "is NAME=VALUE"),
        (lambda: options.from_texts("slurm", ["time-limit=x"]), ValueError, "time_limit of slurm"),
        (lambda: options.from_texts("process", ["a=b"]), ValueError, "there are none"),
    ],
)  # fmt: skip
def test_mistakes(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_options_of_a_command_line():
    texts = ["network=host", "extra=--tls", "extra=--a=b=c"]
    assert options.from_texts("podman", texts) == Podman(network="host", extra=("--tls", "--a=b=c"))
    texts = ["time-limit=60", "qos=high"]
    assert options.from_texts("slurm", texts) == Slurm(time_limit=60, qos="high")


def test_they_are_frozen_and_show_what_they_take():
    with pytest.raises(AttributeError):
        Podman().network = "host"
    assert list(inspect.signature(Slurm).parameters)[:2] == ["partition", "account"]
