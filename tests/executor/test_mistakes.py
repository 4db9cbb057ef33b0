"""A mistake in what was asked for is an error at once that says what was given, and what to do."""

from __future__ import annotations

import os
import re
import time
from functools import partial

import pytest
from tasks import SECONDS, wait_at

import civis_futures as cf
import civis_futures.testing
from civis_futures._container.container import image_and_tag
from civis_futures._executor.options import PoolOptions
from civis_futures.local import LocalPlatform


@pytest.mark.parametrize(("given", "meant"), [("retries", "max_retries"), ("time_out", "timeout")])
def test_an_option_that_there_is_not(make_executor, given, meant):
    with pytest.raises(TypeError, match=f"no option '{given}': did you mean '{meant}'"):
        make_executor(1).options(**{given: 3})
    with pytest.raises(TypeError, match=f"did you mean '{meant}'"):
        make_executor(1).options(max_retries=1).options(**{given: 3})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("locl", "not 'locl': did you mean \"local\"?"),
        ("Local", "not 'Local': did you mean \"local\"?"),
        ("http://127.0.0.1:8000", "set CIVIS_API_ENDPOINT and CIVIS_API_KEY, without platform="),
        ("5f0e7c1a", "this is another str"),  # it may be the key
    ],
)
def test_a_platform_that_is_another_word(given, said):
    with pytest.raises(TypeError, match=r'"local", or an object ') as caught:
        cf.ContainerPoolExecutor(platform=given)
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("memory", [4, 16])
def test_memory_that_was_meant_in_gigabytes(memory):
    with pytest.raises(ValueError, match=f"in MB, and {memory} MB .* GB are {memory * 1024}$"):
        cf.Container(required_resources={"memory": memory})


def test_cores_that_were_meant_in_place_of_millicores():
    with pytest.raises(ValueError, match=r"in millicores, and 4 mill.* 4 cores are 4000$"):
        cf.Container(required_resources={"cpu": 4})


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=repr)
@pytest.mark.parametrize("name", ["cpu", "memory", "disk_space"])
def test_resources_are_finite(name, value):
    with pytest.raises(ValueError, match=f"^required_resources.'{name}'. must be a finite number"):
        cf.Container(required_resources={name: value})


@pytest.mark.parametrize("kind", [cf.Container, partial(cf.Template, from_template_id=5)])
@pytest.mark.parametrize("field", ["arguments", "notifications"])
@pytest.mark.parametrize("value", [float("nan"), {1, 2}], ids=repr)
def test_what_goes_to_the_api_is_json(kind, field, value):
    with pytest.raises((TypeError, ValueError), match=f"^{field} cannot be sent as JSON: "):
        kind(**{field: {"a": [value]}})
    with pytest.raises(TypeError, match=r"^hidden must be True or False, not 'no'$"):
        kind(hidden="no")


@pytest.mark.parametrize(
    "image", ["", " ", "my image", " python", "Python", "https://example.org/r/python", "team/"]
)
def test_a_name_that_no_image_has(image):
    with pytest.raises(ValueError, match=r"^docker_image_name cannot be '.*: an image has a name"):
        cf.Container(docker_image_name=image)


@pytest.mark.parametrize(
    "image", ["a", "a.b/c_d/e--f", "Host:5000/a1", "a@sha256", "registry.io/A/b"]
)
def test_a_name_that_an_image_may_have(image):
    assert cf.Container(docker_image_name=image, docker_image_tag="v1_2.3-a").image


@pytest.mark.parametrize("tag", ["", "3 11", "-a", "a/b", "x" * 129, "3.11\n"])
def test_a_tag_that_no_image_has(tag):
    with pytest.raises(ValueError, match=r"^docker_image_tag cannot be '"):
        cf.Container(docker_image_tag=tag)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ("sklearn", "such as {'sklearn': '1.5'}, not 'sklearn'"),
        (["sklearn"], "such as {'sklearn': '1.5'}, not ['sklearn']"),
        ({"scikit-learn": "1"}, "write it as it is imported, such as 'sklearn'"),
        ({"": "1"}, "which is not the name of a module"),
        ({5: "1"}, "requires has 5"),
        ({"numpy": 1.5}, "requires['numpy'] must be a str, such as '1.5', not 1.5"),
        ({"numpy": ">=1.5"}, "the least version alone, such as '1.5', not '>=1.5'"),
    ],
)
def test_modules_that_cannot_be_required(make_executor, requires, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        cf.ContainerPoolExecutor(platform="local", requires=requires)
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        make_executor(1).options(requires=requires)


def test_a_distribution_is_no_module_to_require():
    with pytest.raises(ValueError, match="has 'scikit-learn', which is not the name of a module"):
        cf.require("numpy", "scikit-learn")


@pytest.mark.parametrize("option", ["max_workers", "container", "session"])
def test_an_option_of_the_executor_is_none_of_a_call(make_executor, option):
    with pytest.raises(TypeError, match=f"^'{option}' is not an option of a call: give it to the"):
        make_executor(1).options(**{option: 3})


def test_an_option_that_resembles_none(make_executor):
    with pytest.raises(TypeError, match="'chunksize': there are after, label, max_memory, "):
        make_executor(1).options(chunksize=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry_on": [ValueError]}, "a tuple of them, .* not .<class 'ValueError'>.$"),
        ({"name": 5}, "^name must be a str, not 5$"),
        ({"include": "mine"}, "not 'mine'$"),
        ({"exclude": [5]}, "^exclude must contain modules, their names, or paths, not 5$"),
        ({"code": "no"}, "not 'no'$"),
        ({"initializer": 5}, "not 5$"),
        ({"initializer": print, "initargs": 5}, "not 5$"),
        ({"platform": LocalPlatform}, r"is a class: pass an object, LocalPlatform\(\)$"),
        ({"platform": 5}, "this int has no .url that is a str$"),
    ],
)
def test_an_error_says_what_was_given(options, said):
    with pytest.raises(TypeError, match=said):
        cf.ContainerPoolExecutor(**{"platform": "local", **options})


def imports_what_is_not_there():
    import not_in_any_image.part  # noqa: F401


def test_a_module_that_is_missed_when_the_call_runs(make_executor):
    error = make_executor(1).submit(imports_what_is_not_there).exception()
    assert type(error) is ModuleNotFoundError
    notes = "\n".join(error.__notes__)
    assert "does not have 'not_in_any_image'" in notes
    assert "setup_cmd" in notes
    assert "include=['not_in_any_image']" in notes


@pytest.mark.parametrize(("name", "is_here"), [("table.csv", True), ("other.csv", False)])
def test_a_file_that_is_only_here(make_executor, tmp_path, monkeypatch, name, is_here):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").touch()
    error = make_executor(1).submit(open, name).exception()
    assert type(error) is FileNotFoundError
    assert ("'table.csv' is on this machine" in "\n".join(error.__notes__)) is is_here


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("python", "Container(docker_image_name='python')"),
        ("python:3.11", "Container(docker_image_name='python', docker_image_tag='3.11')"),
        (7, "not 7"),
    ],
)
def test_a_container_that_is_none(given, said):
    with pytest.raises(TypeError, match="must be a Container or a Template, not ") as caught:
        cf.ContainerPoolExecutor(platform="local", container=given)
    assert str(caught.value).endswith(said)


def test_a_tag_in_the_name_of_an_image():
    with pytest.raises(ValueError, match="docker_image_name='me/it', docker_image_tag='v2'"):
        cf.Container(docker_image_name="me/it:v2")
    assert cf.Container(docker_image_name="here:5000/it", docker_image_tag="v2").image.endswith(
        "it:v2"
    )


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("a/b", ("a/b", "")),
        ("a/b:c", ("a/b", "c")),
        ("host:5000/b", ("host:5000/b", "")),
        ("host:5000/b:c", ("host:5000/b", "c")),
        ("", ("", "")),
    ],
)
def test_the_parts_of_an_image(image, parts):
    assert image_and_tag(image) == parts


@pytest.mark.parametrize(("cores", "workers"), [(None, os.cpu_count()), (3, 3), (0.5, 1)])
def test_the_number_of_workers_is_that_of_a_local_platforms_cores(cores, workers):
    on = PoolOptions(platform=cf.testing.LocalPlatform(cores=cores))
    assert on.policy.max_workers == workers
    assert PoolOptions(platform="local").policy.max_workers == os.cpu_count()
    assert PoolOptions().policy.max_workers == 10


def test_four_workers_are_four_however_many_cores_there_are(tmp_path):
    with cf.ContainerPoolExecutor(4, platform="local") as executor:
        futures = [executor.submit(wait_at, str(tmp_path), number) for number in range(4)]
        while len(os.listdir(tmp_path)) < 4:
            time.sleep(0.01)
        (tmp_path / "open").touch()
        assert [future.result(SECONDS) for future in futures] == [0, 1, 2, 3]


def test_there_is_a_version():
    assert cf.__version__[:1].isdigit()
    with pytest.raises(AttributeError, match="has no attribute '__verzion__'"):
        _ = cf.__verzion__


@pytest.mark.parametrize(
    "field",
    [
        "docker_image_name",
        "docker_image_tag",
        "repo_http_uri",
        "repo_ref",
        "setup_cmd",
        "time_zone",
    ],
)
def test_a_text_of_a_container_must_be_text(field):
    with pytest.raises(TypeError, match=f"^{field} must be a str, not 3$"):
        cf.Container(**{field: 3})


@pytest.mark.parametrize("option", ["port", "cores", "memory", "start_delay", "hold", "seed"])
@pytest.mark.parametrize("value", ["4GB", True], ids=repr)
def test_a_number_of_a_local_platform_must_be_a_number(option, value):
    with pytest.raises(TypeError, match=f"^{option} must be a number, not {value!r}$"):
        LocalPlatform(**{option: value})


@pytest.mark.parametrize("option", ["plain_http", "updated_at_follows_runs", "whole_seconds"])
def test_what_a_local_platform_is_told_to_do_is_true_or_false(option):
    with pytest.raises(TypeError, match=f"^{option} must be True or False, not 'no'$"):
        LocalPlatform(**{option: "no"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("A=1", "be a mapping, not 'A=1'"),
        ({"A": 1}, "contain only str, not 'A': 1"),
        ({1: "A"}, "contain only str, not 1: 'A'"),
    ],
)
def test_the_environment_of_a_local_platform_is_text(given, said):
    with pytest.raises(TypeError, match=f"^environment must {said}$"):
        LocalPlatform(environment=given)


def test_the_faults_of_a_local_platform_must_be_faults():
    with pytest.raises(TypeError, match=r"^faults must be Faults, not 'kill'$"):
        LocalPlatform(faults=["kill"])


def test_a_table_is_of_futures_of_a_pool():
    with pytest.raises(TypeError, match=r"^a table shows futures of a container pool, not 1$"):
        cf.table([1])
