"""What is installed: `make test` installs the built wheel, so this is about the wheel there."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
#: All that the Makefile installs, by where pyproject.toml asks for it.
REQUIREMENTS = {
    "build-system": PYPROJECT["build-system"]["requires"],
    "dependencies": PROJECT["dependencies"],
    **PROJECT["optional-dependencies"],
    **PYPROJECT["dependency-groups"],
}
LOCK = (ROOT / "constraints.txt").read_text("utf-8")
#: The Pythons that we claim to support.
PYTHONS = [
    classifier.rpartition(" ")[2]
    for classifier in PROJECT["classifiers"]
    if re.search(r":: 3\.\d+$", classifier)
]
PACKAGES = ("civis_futures", "civis_joblib")
PLUGIN = "pytest_civis_futures"
distribution = importlib.metadata.distribution("civis-futures")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_typed(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_the_version_is_that_of_the_project_and_of_the_changelog():
    assert distribution.version == PROJECT["version"]
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] in (PROJECT["version"], "Unreleased")


def test_the_console_scripts_are_there_and_can_be_loaded():
    found = {p.name: p for p in distribution.entry_points if p.group == "console_scripts"}
    assert found.keys() == PROJECT["scripts"].keys()
    for name, point in found.items():
        assert callable(point.load())
        assert (Path(sysconfig.get_path("scripts")) / name).exists()


def test_no_console_script_shadows_that_of_another_distribution():
    """Two scripts of one name: the last one installed wins, and the other package is broken."""
    for other in importlib.metadata.distributions():
        if other.metadata["Name"] != distribution.metadata["Name"]:
            theirs = {p.name for p in other.entry_points if p.group == "console_scripts"}
            assert not theirs & PROJECT["scripts"].keys(), other.metadata["Name"]


def test_no_file_is_also_another_distributions():
    """Whichever is installed last would have it, and whichever is removed takes it along."""
    ours = {file.locate().resolve() for file in distribution.files or ()}
    assert ours
    for other in importlib.metadata.distributions():
        if other.metadata["Name"] != distribution.metadata["Name"]:
            theirs = {file.locate().resolve() for file in other.files or ()}
            assert not ours & theirs, other.metadata["Name"]


def test_the_command_of_civis_is_left_to_it():
    """Templates made for civis-python go on with its command, whatever of ours is installed."""
    pytest.importorskip("civis")
    point = importlib.metadata.entry_points(group="console_scripts")["civis_joblib_worker"]
    assert point.dist is not None
    assert point.dist.name == "civis"


def test_a_console_script_runs():
    script = Path(sysconfig.get_path("scripts")) / "civis-futures"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "local" in done.stdout


def test_nothing_else_is_installed():
    if not distribution.read_text("WHEEL") or is_editable():
        pytest.skip("installed for editing; the wheel is tested by `make test`")
    tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
    tops -= {"__pycache__"}  # of the plugin, a module of its own
    assert tops == {*PACKAGES, f"{PLUGIN}.py", f"civis_futures-{PROJECT['version']}.dist-info"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    installed = {
        file.as_posix()
        for file in distribution.files or ()
        if file.parts[0] in PACKAGES and file.suffix != ".pyc"
    }
    assert installed == sources


def test_pytest_finds_the_plugin():
    if is_editable() and not distribution.entry_points.select(group="pytest11"):
        pytest.skip("installed for editing before there was a plugin")
    assert [p.value for p in distribution.entry_points.select(group="pytest11")] == [PLUGIN]


def test_the_license_is_there():
    names = [file.name for file in distribution.files or ()]
    assert "LICENSE" in names


# --- constraints.txt ---------------------------------------------------------------------------


def pins(environment) -> dict[str, str]:
    """What constraints.txt says for one Python on one system: versions by name."""
    found = {}
    for line in LOCK.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate(environment):
                assert requirement.name not in found, line
                found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def with_python(python: str) -> dict[str, str]:
    return {**default_environment(), "python_version": python, "python_full_version": python + ".2"}


def test_the_pythons():
    """The first is the lowest that may install us; and tests run on each."""
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert [f"3.{11 + number}" for number in range(len(PYTHONS))] == PYTHONS
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")
    assert f"python: {PYTHONS}".replace("'", '"') in workflow


def test_the_lock_has_exact_versions_and_nothing_of_the_machine_that_made_it():
    """No address, no path, no option, no build of one machine's own (`+cpu`)."""
    entry = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9]+[a-z0-9.]*( ; [a-z_]+ [^/@:]+)?")
    for line in LOCK.splitlines():
        if not line.startswith("#"):
            assert entry.fullmatch(line)
    comments = [line for line in LOCK.splitlines() if line.startswith("#")]
    assert not re.search(r"[/@\\]|--", "".join(comments)), "it says more than `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("where", REQUIREMENTS)
def test_the_lock_holds_what_the_project_asks_for(where, python):
    environment = with_python(python)
    locked = pins(environment)
    for requirement in map(Requirement, REQUIREMENTS[where]):
        if not requirement.marker or requirement.marker.evaluate(environment):
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / "build" / "venv", reason="not the environment of `make test`"
)
def test_what_is_installed_is_what_the_lock_says():
    locked = pins(default_environment())
    for other in importlib.metadata.distributions():
        name = canonicalize_name(other.metadata["Name"])
        # 3.11 puts setuptools into each new environment; nothing uses it.
        if name not in ("civis-futures", "setuptools"):
            assert other.version == locked[name], name


def is_editable() -> bool:
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(said.get("dir_info", {}).get("editable"))
