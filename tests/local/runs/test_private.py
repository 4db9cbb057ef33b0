"""What a run installs is its own: the user's environment is never changed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from tasks import by_value

from civis_futures import Container, ContainerPoolExecutor
from civis_futures.local import LocalPlatform
from civis_futures.local._places import private

by_value(__name__)

PIP = importlib.util.find_spec("pip") is not None or bool(private._pip())
pytestmark = pytest.mark.skipif(not PIP, reason="this Python has no pip, not even for new venvs")


def wheel(folder, name, version):
    """A wheel with one module, and one command, made by hand: no network and no build."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": f"__version__ = {version!r}\ndef main():\n    print('I am', __file__)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-command = {name}:main\n",
    }
    record = "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | {f"{info}/RECORD": record}).items():
            archive.writestr(member, content)
    return path


class User:
    """An environment with a package, an editable one, a command; it also sees that of the tests."""

    def __init__(self, folder, wheels, *, system=False, pip=False):
        venv.EnvBuilder(system_site_packages=system, symlinks=True, with_pip=pip).create(folder)
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
        with zipfile.ZipFile(wheel(wheels, "present", "1.0")) as archive:
            archive.extractall(packages)
        edited = folder / "edited"
        edited.mkdir()
        (edited / "editable.py").write_text("")
        (packages / "editable.pth").write_text(f"{edited}\n")
        tests = [str(path) for path in site.getsitepackages()]
        lines = f"import site; list(map(site.addsitedir, {tests!r}))\n"
        (packages / "tests.pth").write_text(lines)
        command = folder / "bin" / "present-command"
        command.write_text(f"#!{self.python}\nimport sys, present\nprint(sys.prefix)\n")
        command.chmod(0o755)

    def files(self):
        return {
            path: (os.readlink(path) if path.is_symlink() else path.stat().st_mtime_ns)
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts and not path.is_dir()
        }


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "tiny", "1.0")
    wheel(folder, "present", "2.0")
    return folder


@pytest.fixture(scope="module", params=["plain", "with system packages"])
def user(request, tmp_path_factory, wheels):
    system, pip = request.param == "with system packages", request.param == "with pip"
    try:
        return User(tmp_path_factory.mktemp("user") / "env", wheels, system=system, pip=pip)
    except subprocess.CalledProcessError:
        pytest.skip("this Python cannot give pip to a new environment")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, wheels):
    return User(tmp_path_factory.mktemp("user") / "env", wheels)


@pytest.fixture
def begin(monkeypatch):
    """begin(user): a platform that this user has started."""
    started = []

    def start(user, **settings):
        monkeypatch.setattr(sys, "executable", user.python)
        started.append(LocalPlatform(cores=4, **settings).start())
        return started[-1]

    yield start
    for platform in started:
        platform.stop()


@pytest.fixture
def try_(begin, tools):
    """try_(user, command): the state in which it ends, and what it has printed."""

    def run(user, command):
        platform = begin(user)
        api = tools.Api(platform.url, platform.api_key)
        job, run = api.run(command, requiredResources={"cpu": 64, "memory": 1000})
        return api.wait(job, run, seconds=100)["state"], api.logs(job, run)

    return run


SHOW = """
import sys, tiny, editable, present, numpy
print(tiny.__file__.startswith(sys.prefix), present.__version__)
"""


@pytest.mark.parametrize(
    ("user", "install"),
    [
        ("plain", "pip install --no-index {wheels}/tiny-1.0-py3-none-any.whl"),
        pytest.param(
            "plain",
            "python -m pip install --no-index --find-links {wheels} tiny present",
            marks=pytest.mark.repeats,
        ),
        pytest.param(
            "with system packages",
            "pip3 install --no-index --find-links {wheels} tiny",
            marks=pytest.mark.repeats,
        ),
        ("with pip", "{python} -m pip install --no-index --find-links {wheels} tiny"),
    ],
    indirect=["user"],
    ids=["pip", "-m pip", "pip3", "whole path"],
)
def test_what_is_installed_is_the_runs_own(install, user, wheels, try_):
    before = user.files()
    install = install.format(wheels=wheels, python=user.python)
    state, said = try_(user, f"{install} && tiny-command && exec python3 - <<'X'\n{SHOW}\nX")
    assert state == "succeeded", said
    assert said[-1] == "True 1.0"
    assert "/tiny.py" in said[-2]
    assert user.files() == before


def test_a_newer_version_comes_first(plain, wheels, try_):
    before = plain.files()
    install = f"pip install --no-index --find-links {wheels} --upgrade present"
    state, said = try_(plain, f"{install}; python3 -c 'import present; print(present.__version__)'")
    assert (state, said[-1]) == ("succeeded", "2.0"), said
    assert plain.files() == before


def test_what_the_user_has_cannot_be_removed(plain, try_):
    before = plain.files()
    state, said = try_(plain, "pip uninstall -y present; python3 -c 'import present'")
    assert state == "succeeded", said
    assert plain.files() == before


@pytest.mark.parametrize("user", ["plain", "with system packages"], indirect=True)
def test_a_home_of_its_own(user, wheels, try_):
    before = user.files()
    install = f"pip install --user --no-index --find-links {wheels} tiny"
    state, said = try_(user, f"{install} && python3 -c 'import tiny; print(tiny.__file__)'; echo ~")
    assert state == "succeeded", said
    assert said[-2].startswith(said[-1])
    assert user.files() == before


@pytest.mark.skipif(shutil.which("uv") is None, reason="there is no uv here")
def test_uv(plain, wheels, try_):
    before = plain.files()
    install = f"{shutil.which('uv')} pip install --offline --no-index --find-links {wheels} tiny"
    state, said = try_(plain, f"{install} && python3 -c 'import tiny'")
    assert state == "succeeded", said
    assert plain.files() == before


def test_the_users_commands_see_what_was_installed(plain, try_):
    state, said = try_(plain, "echo $VIRTUAL_ENV; present-command; exec present-command")
    assert state == "succeeded", said
    assert said[0] == said[1] == said[2]


def test_only_what_the_user_sees_is_seen(user, try_):
    """Not the packages of the Python from which that environment was made, unless they are."""
    code = "import os, sys; print([x for x in sys.path if x.endswith('-packages')])"
    state, said = try_(user, f'echo; python3 -c "{code}"')
    assert state == "succeeded", said
    own, *others = eval(said[-1])
    assert "-python/" in own
    # A home of the one who runs the tests is none of the run's.
    theirs = subprocess.run([user.python, "-sc", code], capture_output=True, text=True, check=True)
    assert set(filter(os.path.isdir, others)) == set(filter(os.path.isdir, eval(theirs.stdout)))


# --- as a pool uses it -------------------------------------------------------------------------


def version_of_tiny():
    import sys

    import tiny

    return tiny.__version__, sys.executable, sys.prefix


def test_setup_cmd(begin, plain, wheels, until):
    before = plain.files()
    platform = begin(plain)
    container = Container(setup_cmd=f"pip install --no-index --find-links {wheels} tiny")
    with ContainerPoolExecutor(1, container=container, platform=platform) as executor:
        version, executable, prefix = executor.submit(version_of_tiny).result()
        assert version == "1.0"
        assert executable.startswith(prefix)
        assert os.path.exists(prefix)
    until(lambda: not os.path.exists(prefix))
    assert plain.files() == before


def prefix():
    import sys

    return sys.prefix


def test_without_a_setup_there_is_no_environment(begin, plain, monkeypatch, tmp_path):
    platform = begin(plain, state=tmp_path / "state")
    with ContainerPoolExecutor(2, platform=platform) as executor:
        assert set(executor.map(lambda _: prefix(), range(6))) == {str(plain.folder)}
        assert list(tmp_path.rglob("pyvenv.cfg")) == []


def test_nothing_is_left(begin, plain, tmp_path, until, tools):
    platform = begin(plain, state=tmp_path / "state")
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo $VIRTUAL_ENV; python3 -c 'input()' < /dev/zero; sleep 60")
    api.says(job, run, "python")
    assert list(tmp_path.rglob("pyvenv.cfg"))
    platform.stop()
    assert list((tmp_path / "state" / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "may"),
    [
        ("exec python3 -c 'a b'", False),
        ("exec python3 - <<'EOF'\nprint()\nEOF", False),
        ("exec /usr/bin/python3.12 -c 'a'", False),
        ("exec python3 -m pip install x", True),
        ("exec python3 setup.py install", True),
        ("python3 -c 'a'; pip install x", True),
        ("pip install x", True),
        ("sh ./setup.sh", True),
        ("civis-futures-worker", True),
        ("exec civis-futures-worker", True),
    ],
)
def test_which_commands_may_install(command, may):
    assert private.may_install(command) is may
