"""Which image goes with which Python."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from civis_futures import Container, ContainerPoolExecutor, _wire
from civis_futures._container import images
from civis_futures._pool.launch import script_body
from civis_futures._pool.outcomes import CallPlace, outcome_of
from civis_joblib import make_backend_factory

ROOT = Path(__file__).parents[1]
ELSEWHERE = SimpleNamespace(url="https://api.civis.test/", api_key="k")
NEWER = "3.99"


@pytest.fixture
def python(monkeypatch):
    """python("3.14"): as if that were this Python, as far as images are concerned."""
    return lambda version: monkeypatch.setattr(images, "python_here", lambda: version)


def test_this_python():
    import sys

    assert images.python_here() == "{}.{}".format(*sys.version_info)


@pytest.mark.parametrize(
    ("version", "tag"),
    [("3.11", "7.0.0"), ("3.12", "8.2.0"), ("3.13", "8.3.0"), ("3.14", "8.4.0")],
)
def test_a_container_without_an_image_has_this_python(version, tag, python):
    python(version)
    container = Container()
    assert container.image == f"civisanalytics/datascience-python:{tag}"
    assert container == Container(docker_image_tag=tag)
    assert hash(container.image) == hash(Container().image)
    assert f"docker_image_tag='{tag}'" in repr(container)
    body = script_body(container, name="", order="", program=_wire.Blob.in_file(1, "", 1), url="")
    assert (body["docker_image_name"], body["docker_image_tag"]) == (images.OFFICIAL, tag)


@pytest.mark.parametrize("version", ["3.11", NEWER])
def test_what_is_said_is_done(version, python):
    python(version)
    assert Container(docker_image_tag="latest").docker_image_tag == "latest"
    assert Container(docker_image_tag="1.2").image == f"{images.OFFICIAL}:1.2"
    assert Container(docker_image_name="mine").image == "mine:latest"
    assert Container(docker_image_name="mine", docker_image_tag="3").image == "mine:3"


def test_a_container_of_joblib(python):
    python("3.13")
    assert make_backend_factory()()._options["container"].docker_image_tag == "8.3.0"
    assert make_backend_factory("mine")()._options["container"].image == "mine:latest"
    chosen = make_backend_factory(docker_image_tag="latest")()._options["container"]
    assert chosen.docker_image_tag == "latest"


def test_a_changed_container_keeps_its_image(python):
    python("3.13")
    container = Container()
    python("3.14")
    for copy in (
        dataclasses.replace(container, cancel_timeout=3),
        pickle.loads(pickle.dumps(container)),
    ):
        assert copy.docker_image_tag == "8.3.0"


# --- a Python that no image has ----------------------------------------------------------------


def test_the_user_is_warned_before_a_pool_on_the_platform_fails(python):
    python(NEWER)
    assert Container().docker_image_tag == "latest"
    with pytest.warns(UserWarning, match=rf"Python {NEWER}.*8\.4\.0, has Python 3\.14") as caught:
        ContainerPoolExecutor(platform=ELSEWHERE).shutdown()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "container", [Container(docker_image_tag="latest"), Container(docker_image_name="mine")]
)
def test_who_has_chosen_is_not_warned(container, python):
    python(NEWER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ContainerPoolExecutor(platform=ELSEWHERE, container=container).shutdown()


def test_on_the_local_platform_images_do_not_matter(python, platform):
    python(NEWER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ContainerPoolExecutor(1, platform=platform) as executor:
            assert executor.submit(pow, 2, 3).result() == 8


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            "3.11",
            f"with Python 3.11 ({images.OFFICIAL}:7.0.0 has it), or run this with Python 3.8",
        ),
        (NEWER, "no official image is known to have it; the newest known one has Python 3.14"),
    ],
)
def test_an_error_names_the_image_that_fits(version, words):
    place = CallPlace("f (task 1)", "some/image:9", 1, 2, "url")
    answer = _wire.Answer(1, _wire.PYTHON_MISMATCH, detail="3.8")
    message = str(outcome_of(answer, None, place, version).exception)
    assert words in message
    assert "some/image:9 has Python 3.8" in message


# --- documents ---------------------------------------------------------------------------------


def test_the_documents_have_the_same_table():
    text = (ROOT / "docs" / "containers-and-images.md").read_text("utf-8")
    rows = re.findall(r"^\| (3\.\d+) \| `(.*?)` \|", text, re.MULTILINE)
    assert dict(rows) == images.TAGS
