"""What another user of the cluster sees: no key, no command, no parameter, no environment."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from cluster import Elsewhere
from raw import until

#: In the command, a parameter, and the environment.
SECRETS = ("tell-tale-command", "tell-tale-parameter", "tell-tale-environment")
#: A user who has nothing to do with us.
OTHER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


@pytest.fixture(scope="module")
def as_other():
    """as_other(command): what a second user of this machine reads; errors included."""

    def run(*command):
        done = subprocess.run(
            [*OTHER, *command], capture_output=True, text=True, errors="replace", timeout=20
        )
        return done.stdout + done.stderr

    assert run("id", "-un") == "nobody\n"
    return run


@pytest.fixture(scope="module")
def busy(cluster, tmp_path_factory):
    """A platform with one run that runs, and one that waits; their keys."""
    with cluster.platform(extra=("--exclusive",)) as platform:
        api = Elsewhere(platform)
        params = [{"name": "P", "type": "string", "value": SECRETS[1]}]
        command = f": {SECRETS[0]}; export E={SECRETS[2]}; echo ready; sleep 3000 & wait"
        runs = [api.run(command, params=params, name=f"n{number}") for number in range(4)]
        until(lambda: sum(api.look(*run)["state"] == "running" for run in runs) == 3)
        for run in runs[:3]:
            api.says(*run, "ready")
        keys = set()
        for spool in (cluster.folder / "spool").glob("*/job*/slurm_script"):
            keys |= set(re.findall(r"local-agent-\w+", spool.read_text(errors="replace")))
        assert len(keys) == 3
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                keys |= set(re.findall(r"local-run-[\w-]+", environ.read_text(errors="replace")))
            except OSError:
                continue
        assert len(keys) >= 6
        yield [*SECRETS, platform.api_key, *keys]
        for job, _ in runs:
            api.ok("POST", f"/scripts/{job}/cancel")
    until(lambda: not cluster.jobs(), 30)


def test_he_sees_jobs_and_no_secret(busy, cluster, as_other):
    jobs = cluster.jobs()
    seen = {
        "ps": as_other("ps", "-efww"),
        "ps with environment": as_other("ps", "axeww"),
        "scontrol": as_other("scontrol", "-dd", "show", "job"),
        "squeue": as_other("squeue", "--Format=ALL"),
        "squeue --json": as_other("squeue", "--json"),
        "script": "".join(as_other("scontrol", "write", "batch_script", job, "-") for job in jobs),
        "spool": as_other("sh", "-c", f"cat {cluster.folder}/spool/*/*/slurm_script"),
        "state": as_other("sh", "-c", f"cat {cluster.folder}/state/hash*/*/*"),
        "proc": as_other("sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"),
        "tmp": as_other("sh", "-c", "cat /tmp/civis-*/* /tmp/civis-*/*/*; ls -l /tmp"),
    }
    assert "civis-" in seen["squeue --json"]  # he does see the jobs
    assert "python3" in seen["ps"]
    found = {
        place: [secret[:20] for secret in busy if secret in text] for place, text in seen.items()
    }
    assert {place: secrets for place, secrets in found.items() if secrets} == {}


def test_their_owner_does_see_them(busy, cluster):
    """The test above looks for the right things."""
    scripts = "".join(
        cluster("scontrol", "write", "batch_script", job, "-", check=False)
        for job in cluster.jobs()
    )
    assert any(key in scripts for key in busy if key.startswith("local-agent-"))
    own = b"".join(path.read_bytes() for path in processes("environ"))
    assert any(key.encode() in own for key in busy if key.startswith("local-run-"))


def processes(what):
    for path in Path("/proc").glob(f"[0-9]*/{what}"):
        if os.access(path, os.R_OK):
            try:
                path.read_bytes()
            except OSError:
                continue
            yield path
