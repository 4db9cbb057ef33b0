"""What the image must have: checked before anything of the call is unpickled there."""

from __future__ import annotations

import pytest
from tasks import by_value

import civis_futures as cf

by_value(__name__)


def variable(name):
    import os

    return os.environ.get(name)


class Unpickled:
    """Fails wherever it arrives."""

    def __reduce__(self):
        return divmod, (1, 0)


@pytest.fixture
def image(tmp_path):
    """A container whose module `shop` is of version 1.9.2."""
    (tmp_path / "shop.py").write_text("__version__ = '1.9.2'")
    return cf.Container(setup_cmd=f"export PYTHONPATH={tmp_path}")


@pytest.mark.parametrize("requires", [
    {}, {"shop": ""}, {"shop": "1.9"}, {"shop": "1.9.2", "string": "99"},  # string has no version
])  # fmt: skip
def test_it_is_there(make_executor, image, requires):
    executor = make_executor(1, container=image, requires=requires)
    assert executor.submit(pow, 2, 3).result(20) == 8
    assert executor.submit_batch(pow, [(2, 3)]).result(20) == [8]


@pytest.mark.parametrize("least", ["1.10", "2", "1.9.3"])
def test_it_is_too_old(make_executor, image, least):
    executor = make_executor(1, container=image, requires={"shop": least})
    with pytest.raises(cf.EnvironmentMismatchError) as caught:
        executor.submit(pow, Unpickled()).result(20)
    assert (
        f"it needs shop {least} or later, and the image has shop 1.9.2 "
        f"({cf.Container().image})" in str(caught.value)
    )
    assert f"setup_cmd=\"pip install 'shop>={least}'\"" in str(caught.value)


def test_it_is_missing(make_executor):
    executor = make_executor(1, requires={"shop": ""})
    with pytest.raises(cf.EnvironmentMismatchError, match="needs the module 'shop'"):
        executor.submit_batch(pow, [(Unpickled(),)]).result(20)


def test_environment(make_executor):
    container = cf.Container(
        params=[{"name": "shape", "type": "string"}, {"name": "COLOUR", "type": "string"}],
        arguments={"shape": "flat", "COLOUR": "red"},
        environment={"SHAPE": "round", "QUOTED": "a 'b' $C"},
    )
    executor = make_executor(1, container=container)
    found = list(executor.map(variable, ["SHAPE", "COLOUR", "QUOTED"]))
    assert found == ["round", "red", "a 'b' $C"]


@pytest.mark.parametrize(("field", "value", "text"), [
    ("params", "COLOUR", "must be mappings, not 'COLOUR'"),
    ("params", ["COLOUR"], r"must be mappings, not \['COLOUR'\]"),
    ("arguments", "COLOUR=red", "must be a mapping, not str"),
    ("arguments", [1], "must be a mapping, not list"),
    ("notifications", False, "must be a mapping, not bool"),
    ("cancel_timeout", "5", "must be a number, not '5'"),
])  # fmt: skip
def test_fields_of_the_wrong_type(field, value, text):
    with pytest.raises(TypeError, match=f"{field} {text}"):
        cf.Container(**{field: value})
    if field in ("arguments", "notifications"):
        with pytest.raises(TypeError, match=f"{field} {text}"):
            cf.Template(from_template_id=1, **{field: value})


@pytest.mark.parametrize("environment", [{"A": 1}, {1: "a"}, {"A": None}])
def test_an_environment_is_text(environment):
    with pytest.raises(TypeError, match="environment must be of text only"):
        cf.Container(environment=environment)
