"""In the place of civis.parallel: its three factories, with what its parameters meant."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import warnings
from datetime import timedelta

import pytest
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from tasks import by_value, square

import civis_futures as cf
import civis_joblib
from civis_futures import _wire
from civis_futures._api.client import PlatformClient, credentials
from civis_futures.testing import Fault
from civis_joblib import (
    infer_backend_factory,
    make_backend_factory,
    make_backend_template_factory,
)
from civis_joblib._backend import CivisBackend

by_value(__name__)


def variables(*names):
    return [os.environ.get(name) for name in names]


def run(factory, *calls, n_jobs=2, **options):
    register_parallel_backend("civis", factory)
    with parallel_config("civis", n_jobs=n_jobs, **options):
        return Parallel()(calls)


def container_of(factory):
    return factory()._options["container"]


# --- make_backend_factory ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "make_backend_factory", "infer_backend_factory", "make_backend_template_factory",
])  # fmt: skip
def test_the_parameters_are_those_of_civis_parallel(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("civis.parallel")
    old = inspect.signature(getattr(theirs, name)).parameters
    new = inspect.signature(getattr(civis_joblib, name)).parameters
    positions = [(p.name, p.default) for p in old.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    shared = [(p.name, p.default) for p in new.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert shared == positions
    assert [p.kind for p in new.values()][-1] is inspect.Parameter.VAR_KEYWORD


def test_fields_of_the_container():
    factory = make_backend_factory(
        "python", None, None, "true", 0, 2, False, "loky",
        docker_image_tag="3.11", required_resources={"cpu": 512, "memory": 256},
        params=None, arguments=None, repo_http_uri="github.com/a/b", repo_ref="main",
        cancel_timeout=5, time_zone="UTC", partition_label="p", name="mine", max_workers=9,
    )  # fmt: skip
    container = container_of(factory)
    assert container.image == "python:3.11"
    assert container.required_resources == {"cpu": 512, "memory": 256, "disk_space": 1.0}
    assert (container.setup_cmd, container.hidden, container.repo_ref) == ("true", False, "main")
    backend = factory(nesting_level=3)
    assert backend._options["max_retries"] == 2
    assert backend._options["name"] == "mine"
    assert (backend.nesting_level, backend.effective_n_jobs(-1)) == (3, 9)


def test_params_and_arguments_are_variables():
    factory = make_backend_factory(
        params=[{"name": "COLOUR", "type": "string"}], arguments={"COLOUR": "red"},
        setup_cmd="export SHAPE=round",
    )  # fmt: skip
    assert run(factory, delayed(variables)("COLOUR", "SHAPE")) == [["red", "round"]]


def test_a_repository_that_cannot_be_installed_is_of_use_all_the_same(inside):
    repository = {"repo_http_uri": "github.com/a/b"}
    assert container_of(make_backend_factory()).setup_cmd is None
    found = container_of(make_backend_factory(**repository)).setup_cmd
    assert found == "cd /app; pip install .; cd /"
    assert container_of(make_backend_factory(setup_cmd="true", **repository)).setup_cmd == "true"
    inside("/scripts/containers", {**PARENT, "repoHttpUri": "github.com/a/b"})
    assert container_of(infer_backend_factory()).setup_cmd == found
    make_backend_template_factory(1)


def fail_the_first_time(path):
    try:
        os.mkdir(path)
    except FileExistsError:
        return "done"
    raise ConnectionError(path)


def test_job_retries_are_for_whatever_reason(tmp_path):
    factory = make_backend_factory(max_job_retries=1)
    assert run(factory, delayed(fail_the_first_time)(str(tmp_path / "1"))) == ["done"]
    assert make_backend_factory(max_retries=1)()._options["retry_on"] is None


def test_options_in_parallel_config_come_last():
    factory = make_backend_factory(max_tasks_per_worker=5)
    assert run(factory, delayed(square)(2), max_tasks_per_worker=1) == [4]


@pytest.mark.parametrize("make", [
    make_backend_factory, lambda **options: make_backend_template_factory(1, **options),
])  # fmt: skip
def test_misspelt(make):
    with pytest.raises(TypeError, match="'required_resource': did you mean 'required_resources'"):
        make(required_resource={"cpu": 512})
    with pytest.raises(TypeError, match="'max_job_retry': did you mean 'max_job_retries'"):
        make(max_job_retry=1)


def test_wrong_values():
    with pytest.raises(ValueError, match="required_resources has no 'cpus'"):
        make_backend_factory(required_resources={"cpus": 1})
    with pytest.raises(ValueError, match="max_retries must be 0 or more"):
        make_backend_factory(max_job_retries=-1)
    with pytest.raises(TypeError, match="idle_timeout must be a number"):
        make_backend_template_factory(1, idle_timeout="60")


@pytest.mark.parametrize("name", ["polling_interval", "max_submit_retries"])
@pytest.mark.parametrize("make", [
    make_backend_factory, lambda **options: make_backend_template_factory(1, **options),
])  # fmt: skip
def test_what_is_not_needed_any_more_says_so_once(make, name):
    with pytest.warns(UserWarning, match=f"{name} is not needed any more: ") as said:
        factory = make(**{name: 3})
    assert len(said) == 1
    factory()
    make(**{name: None if name == "polling_interval" else 0})


# --- where the key comes from ------------------------------------------------------------------


def test_a_civis_client(platform, monkeypatch):
    civis = pytest.importorskip("civis")
    monkeypatch.delenv("CIVIS_API_KEY")
    client = civis.APIClient(api_key=platform.api_key, local_api_spec=_spec(civis))
    factory = make_backend_factory(client=client)
    assert run(factory, delayed(square)(3)) == [9]
    assert platform.api_key not in repr(factory()._options)
    assert platform.api_key.encode() not in pickle.dumps(factory())


def _spec(civis):
    return os.path.join(os.path.dirname(civis.__file__), "resources", "civis_api_spec.json")


def test_a_platform(platform, monkeypatch):
    monkeypatch.delenv("CIVIS_API_KEY")
    assert run(make_backend_factory(platform=platform), delayed(square)(3)) == [9]
    assert make_backend_factory(client=platform)()._options["platform"] is platform


# --- infer_backend_factory ---------------------------------------------------------------------


@pytest.fixture
def inside(ask, monkeypatch):
    """inside(path, body): a script that we pretend to run in."""

    def inside(path, body):
        script = ask("POST", path, {"name": "parent", **body})
        monkeypatch.setenv("CIVIS_JOB_ID", str(script["id"]))
        monkeypatch.setenv("CIVIS_RUN_ID", "1")
        return script

    return inside


RESOURCES = {"cpu": 300, "memory": 200, "diskSpace": 2.0}
PARENT = {
    "requiredResources": RESOURCES,
    "dockerImageName": "python",
    "dockerImageTag": "3.11",
    "dockerCommand": "true",
    "cancelTimeout": 7,
    "timeZone": "America/Chicago",
    "instanceType": "m5.large",
    "partitionLabel": "fast",
    "params": [
        {"name": "COLOUR", "type": "string"},
        {"name": "SHAPE", "type": "string", "default": "flat"},
        {"name": "CIVIS_FUTURES_ORDER", "type": "multi_line_string"},
        {"name": "CIVIS_PARENT_JOB_ID", "type": "integer"},
    ],
    "arguments": {"COLOUR": "red", "CIVIS_FUTURES_ORDER": "{}", "CIVIS_PARENT_JOB_ID": 5},
}


def test_like_this_container(inside):
    script = inside("/scripts/containers", PARENT)
    factory = infer_backend_factory()
    container = container_of(factory)
    assert container.image == "python:3.11"
    assert container.required_resources == {"cpu": 300, "memory": 200, "disk_space": 2.0}
    assert (container.cancel_timeout, container.time_zone) == (7, "America/Chicago")
    assert (container.instance_type, container.partition_label) == ("m5.large", "fast")
    assert [param["name"] for param in container.params] == ["COLOUR", "SHAPE"]
    assert dict(container.arguments) == {"COLOUR": "red"}
    names = ("COLOUR", "SHAPE", "CIVIS_PARENT_JOB_ID")
    assert run(factory, delayed(variables)(*names)) == [["red", "flat", str(script["id"])]]


def test_what_is_given_wins(inside):
    inside("/scripts/containers", PARENT)
    container = container_of(
        infer_backend_factory(
            {"memory": 999},
            [{"name": "shape", "default": "round"}, {"name": "N", "type": "float"}],
            {"N": 1.5},
            docker_image_name="other",
            docker_image_tag="1",
            cancel_timeout=None,
            max_job_retries=1,
            repo_ref="main",
        )
    )
    assert container.image == "other:1"
    assert container.required_resources == {"cpu": 300, "memory": 999, "disk_space": 2.0}
    assert [(p["name"], p.get("default")) for p in container.params] == [
        ("COLOUR", None), ("shape", "round"), ("N", None),
    ]  # fmt: skip
    assert container.params[1]["type"] == "string"
    assert dict(container.arguments) == {"COLOUR": "red", "N": 1.5}
    assert (container.cancel_timeout, container.repo_ref) == (7, "main")


def test_in_a_custom_script(inside, ask):
    backing = ask("POST", "/scripts/containers", {"name": "backing", **PARENT})
    template = ask("POST", "/templates/scripts", {"scriptId": backing["id"], "name": "template"})
    inside("/scripts/custom", {"fromTemplateId": template["id"], "arguments": {"SHAPE": "round"}})
    container = container_of(infer_backend_factory())
    assert container.image == "python:3.11"
    assert container.required_resources["cpu"] == 300
    assert container.arguments["SHAPE"] == "round"


def test_a_template_whose_script_cannot_be_read(inside, ask, platform):
    backing = ask("POST", "/scripts/containers", {"name": "backing", **PARENT})
    template = ask("POST", "/templates/scripts", {"scriptId": backing["id"], "name": "template"})
    custom = inside("/scripts/custom", {"fromTemplateId": template["id"]})
    platform.faults.add(gone := Fault.answer(404, "GET /scripts/containers/*", skip=1))
    try:
        with pytest.raises(
            RuntimeError, match=f"job {custom['id']} .*whose script {backing['id']}"
        ):
            infer_backend_factory()
    finally:
        platform.faults.remove(gone)


def test_not_in_a_container():
    with pytest.raises(RuntimeError, match="does not run in a container of Civis Platform"):
        infer_backend_factory()


def infer_within():
    civis_joblib.register(platform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factory = infer_backend_factory()
    return container_of(factory).arguments, os.environ["CIVIS_JOB_ID"]


def test_really_in_a_container():
    factory = make_backend_factory(
        params=[{"name": "COLOUR", "type": "string"}], arguments={"COLOUR": "blue"}
    )
    ((arguments, _),) = run(factory, delayed(infer_within)())
    assert dict(arguments) == {"COLOUR": "blue"}


# --- make_backend_template_factory -------------------------------------------------------------


def template_of(ask, command):
    script = ask("POST", "/scripts/containers", {
        "name": "worker", "dockerImageName": "python", "dockerImageTag": "3.11",
        "requiredResources": RESOURCES,
        "dockerCommand": command,
        "params": [
            {"name": "JOBLIB_FUNC_FILE_ID", "type": "integer", "required": True},
            {"name": "COLOUR", "type": "string"},
            # civis.parallel sends these always.
            {"name": "CIVIS_PARENT_JOB_ID", "type": "integer"},
            {"name": "CIVIS_PARENT_RUN_ID", "type": "integer"},
        ],
    })  # fmt: skip
    return ask("POST", "/templates/scripts", {"scriptId": script["id"], "name": "t"})["id"]


@pytest.fixture
def template(ask):
    """A template as civis.parallel asks for it, with our command."""
    return template_of(ask, "civis-futures-worker --file ${JOBLIB_FUNC_FILE_ID}")


def test_a_template(template):
    factory = make_backend_template_factory(template, {"COLOUR": "green"})
    calls = [delayed(square)(4), delayed(variables)("COLOUR")]
    assert run(factory, *calls) == [16, ["green"]]


def test_a_failure_in_a_template(template):
    with pytest.raises(TypeError, match="NoneType"):
        run(make_backend_template_factory(template), delayed(square)(None), delayed(square)(1))


# --- templates that were made for civis.parallel, as they are ----------------------------------

# As the command `civis_joblib_worker` of civis-python does, and with the id in the environment.
COMMANDS_OF_CIVIS = [
    "python3 -m civis.run_joblib_func",
    "civis_joblib_worker ${JOBLIB_FUNC_FILE_ID}",
]


def modules_and_colour(prefix):
    """Whether this process has such modules, and whether its parents run something else."""
    theirs = [name for name in sys.modules if name.partition(".")[0] == prefix]
    return theirs, os.environ.get("COLOUR")


@pytest.mark.parametrize(
    "command", [COMMANDS_OF_CIVIS[0], pytest.param(COMMANDS_OF_CIVIS[1], marks=pytest.mark.repeats)]
)
def test_a_template_of_civis_parallel_runs_as_it_is(command, ask, platform):
    pytest.importorskip("civis")
    factory = make_backend_template_factory(template_of(ask, command), {"COLOUR": "green"})
    before = platform.stats().runs_started
    calls = [delayed(square)(n) for n in range(30)]
    assert run(factory, *calls, delayed(modules_and_colour)("civis"))[-1] == ([], "green")
    assert 1 <= platform.stats().runs_started - before <= 2  # n_jobs


def test_a_failure_and_a_crash_in_a_template_of_civis_parallel(ask):
    pytest.importorskip("civis")
    factory = make_backend_template_factory(template_of(ask, COMMANDS_OF_CIVIS[0]))
    with pytest.raises(TypeError, match="NoneType"):
        run(factory, delayed(square)(None))
    with pytest.raises(cf.CallLostError, match="exit code 7"):
        run(factory, delayed(os._exit)(7))


@pytest.mark.repeats
def test_a_long_order_in_a_template_of_civis_parallel(ask):
    pytest.importorskip("civis")
    factory = make_backend_template_factory(template_of(ask, COMMANDS_OF_CIVIS[0]))
    texts = [os.urandom(50_000).hex() for _ in range(4)]
    assert run(factory, *(delayed(len)(text) for text in texts), n_jobs=2) == [100_000] * 4


@pytest.mark.parametrize("order", ["an order", '{"a": "\\\\ \\u00e9 \\n"}', "file:12"])
def test_an_order_in_a_file_is_a_call_to_who_unpickles_it(order):
    data = _wire.for_template(order, "import sys\nprint('\\n')\n")
    call, backend = pickle.loads(data)
    assert backend == "sequential"
    assert call.func is exec
    assert call.args[1] == {"order": order, "program": "import sys\nprint('\\n')\n"}
    assert _wire.order_for_template(data.decode("ascii")) == order


def our_worker(ask, platform, content, *, civis=True):
    """What our command says to a File with this content, with civis in the image or without it."""
    client = PlatformClient(*credentials(platform))
    file = client.upload(content, len(content), "f", expires_in=timedelta(days=1))
    client.close()
    code = "import sys; from civis_futures.worker import main; "
    if not civis:
        code += "sys.modules['civis'] = None; "
    return subprocess.run(
        [sys.executable, "-c", f"{code}main()", "--file", str(file)],
        env={
            **os.environ,
            "CIVIS_API_KEY": platform.api_key,
            "CIVIS_API_ENDPOINT": platform.url,
            "CIVIS_JOB_ID": "1",
            "CIVIS_RUN_ID": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_our_command_and_a_call_of_civis_parallel(ask, platform):
    done = our_worker(ask, platform, pickle.dumps((print, None)), civis=False)
    assert done.returncode == 2
    assert "civis.parallel" in done.stderr
    assert "civis_joblib" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"nonsense", b"\xff\xfe", b"csys\nexit\n(Vold words\ntR.\n{}"])
def test_our_command_and_a_file_of_something_else(content, ask, platform):
    done = our_worker(ask, platform, content)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--file"], ["--file", ""], ["12"], ["--file", "1", "2"], ["--fil", "1"]]
)
def test_our_command_asks_for_the_id_of_a_file(arguments):
    code = "from civis_futures.worker import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "civis-futures-worker --file ID" in done.stderr


@pytest.mark.stress  # it polls every second
def test_the_command_also_serves_those_who_still_use_civis_parallel(template, platform):
    civis = pytest.importorskip("civis")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("civis.parallel")
    client = civis.APIClient(api_key=platform.api_key, local_api_spec=_spec(civis))
    factory = theirs.make_backend_template_factory(template, client=client, polling_interval=1)
    assert run(factory, delayed(square)(3)) == [9]


def test_no_such_template():
    with pytest.raises(cf.BrokenContainerPool, match="template"):
        run(make_backend_template_factory(999), delayed(square)(1))


def test_all_jobs_on_a_local_platform_are_its_cores(platform):
    assert CivisBackend(platform="local").effective_n_jobs(-1) == os.cpu_count()
    assert CivisBackend(platform=platform).effective_n_jobs(-1) == int(platform.cores)
    assert CivisBackend().effective_n_jobs(-1) == 50


def test_the_error_that_civis_parallel_raises_when_it_cannot_submit():
    assert civis_joblib.JobSubmissionError is cf.BrokenContainerPool
