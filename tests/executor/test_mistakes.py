"""A mistake in what was asked for is an error at once that says what was given, and what to do."""

from __future__ import annotations

import pytest

import civis_futures as cf
from civis_futures._container import image_and_tag


@pytest.mark.parametrize(("given", "meant"), [("retries", "max_retries"), ("time_out", "timeout")])
def test_an_option_that_there_is_not(make_executor, given, meant):
    with pytest.raises(TypeError, match=f"no option '{given}': did you mean '{meant}'"):
        make_executor(1).options(**{given: 3})


def test_a_platform_that_is_another_word():
    with pytest.raises(TypeError, match=r'"local", or an object .* this is another str'):
        cf.ContainerPoolExecutor(platform="locl")


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


def test_there_is_a_version():
    assert cf.__version__[:1].isdigit()
    with pytest.raises(AttributeError, match="has no attribute '__verzion__'"):
        _ = cf.__verzion__
