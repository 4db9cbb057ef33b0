"""What each worker of a pool runs in, as users describe it: `Container` and `Template`, checked.

Knows which image has which Python, and nothing of what is sent to the platform.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .._types import JobKind, Resources, make_plain, number, whole
from . import images

#: What Platform accepts at the least (api contract, section 2): millicores, MB.
MINIMUM_RESOURCES = {"cpu": 2, "memory": 4}
#: What a container asks for unless told otherwise: millicores, MB, GB.
DEFAULT_RESOURCES = {"cpu": 1000, "memory": 2048, "disk_space": 1.0}
#: With less than this, no worker gets as far as its first call, or not within minutes; as units
#: are easily mistaken, the message says which unit it is and what was probably meant.
_PYTHON_NEEDS = {"cpu": (10, "millicores", "cores", 1000), "memory": (32, "MB", "GB", 1024)}
#: Of Docker's names of images, what is certain: no space, no scheme, and the last part, at the
#: least, in lower case.
_IMAGE = re.compile(r"(?:[\w.-]+(?::[0-9]+)?/)*[a-z0-9][a-z0-9._-]*(?:@sha256)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
#: Fields of a Container that are text, or None if they are not given.
_TEXTS = (
    *("docker_image_name", "docker_image_tag", "repo_http_uri", "repo_ref", "setup_cmd"),
    *("instance_type", "partition_label", "time_zone", "user_context"),
)
_IDS = ("target_project_id", "running_as_id")
_RESOURCE_NAMES = ("cpu", "memory", "disk_space")


def checked_resources(given: Mapping[str, float] | None) -> dict[str, float]:
    """A copy of what a user asked for; TypeError or ValueError if there is no such thing."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"required_resources must be a mapping, not {type(given).__name__}")
    resources = dict(given or {})
    for name, value in resources.items():
        if name not in _RESOURCE_NAMES:
            raise ValueError(
                f"required_resources has no {name!r}; it takes {', '.join(_RESOURCE_NAMES)}"
            )
        field_name = f"required_resources[{name!r}]"
        resources[name] = number(field_name, value)
        least = MINIMUM_RESOURCES.get(name, 0)
        if value < least:
            raise ValueError(f"{field_name} is {value}: the platform's minimum is {least}")
        if not value < math.inf:
            raise ValueError(f"{field_name} must be a finite number, not {value}")
        enough, unit, larger, factor = _PYTHON_NEEDS.get(name, (0, "", "", 0))
        if value < enough:
            raise ValueError(
                f"{field_name} is in {unit}, and {value:g} {unit} are too few for Python; "
                f"{value:g} {larger} are {value * factor:g}"
            )
    return resources


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container in which each worker of a pool runs; named as in the API's container scripts.

    Args:
        docker_image_name, docker_image_tag: an image that has Python of the same minor version as
            this one, and all packages that the functions import. The default tag of Civis's
            official image is one with this Python, if one is known; that of others is
            ``"latest"``.
        required_resources: ``cpu`` in millicores (1000 are one core), ``memory`` in MB,
            ``disk_space`` in GB. The defaults are 1000, 2048 and 1.0.
        repo_http_uri, repo_ref, git_credential_id: a repository to clone to ``/app``.
        setup_cmd: a shell command to run first. By default, a repository is installed with pip.
        remote_host_credential_id: a database credential to put into the environment.
        params, arguments: additional parameters of the script, and their values, in the API's
            form. They become environment variables of the container.
        environment: additional environment variables, as text. The platform writes their names in
            capitals.
        cancel_timeout: seconds between the SIGTERM and the SIGKILL of a container that is
            cancelled. A container that has a pool of its own needs about 30 to end it.
        instance_type, partition_label: where the platform runs the container.
        time_zone: the time zone of the script, such as ``"America/Chicago"``.
        target_project_id, running_as_id, user_context: as in the API.
        notifications: as in the API; by default, nobody gets an e-mail.
        hidden: whether the scripts are hidden in the platform's lists.

    Raises:
        ValueError: a resource is unknown, or too small; or the image's name or tag is not allowed.
        TypeError: a field has the wrong type.
    """

    docker_image_name: str = images.OFFICIAL
    docker_image_tag: str | None = None
    required_resources: Mapping[str, float] = field(default_factory=dict)
    repo_http_uri: str | None = None
    repo_ref: str | None = None
    git_credential_id: int | None = None
    setup_cmd: str | None = None
    remote_host_credential_id: int | None = None
    params: Sequence[Mapping[str, Any]] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cancel_timeout: int = 0
    instance_type: str | None = None
    partition_label: str | None = None
    time_zone: str | None = None
    target_project_id: int | None = None
    running_as_id: int | None = None
    user_context: str | None = None
    notifications: Mapping[str, Any] = field(
        default_factory=lambda: {"success_on": False, "failure_on": False}
    )
    hidden: bool = True
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Whether the tag is neither the user's nor known to fit this Python.
    _tag_is_a_guess: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Choose a tag, and take copies: a later change of the caller's dicts does not reach us."""
        _check_types(self, "arguments", "notifications", "environment")
        for field_name in _TEXTS:
            text = getattr(self, field_name)
            if not isinstance(text, str) and (
                text is not None or field_name == "docker_image_name"
            ):
                raise TypeError(f"{field_name} must be a str, not {text!r}")
        name, tag_in_name = image_and_tag(self.docker_image_name)
        if tag_in_name:
            raise ValueError(
                f"docker_image_name is {self.docker_image_name!r}, which contains a tag: use "
                f"docker_image_name={name!r}, docker_image_tag={tag_in_name!r}"
            )
        if not _IMAGE.fullmatch(self.docker_image_name):
            raise ValueError(
                f"docker_image_name cannot be {self.docker_image_name!r}: an image has a name such "
                "as 'python' or 'host:5000/team/image', in lower case, without spaces or 'https://'"
            )
        if self.docker_image_tag is not None and not _TAG.fullmatch(self.docker_image_tag):
            raise ValueError(
                f"docker_image_tag cannot be {self.docker_image_tag!r}: a tag has 1 to 128 "
                "letters, digits, dots, dashes and underscores"
            )
        if self.docker_image_tag is None:
            tag, is_known = images.tag_of(self.docker_image_name)
            object.__setattr__(self, "docker_image_tag", tag)
            object.__setattr__(self, "_tag_is_a_guess", not is_known)
        resources = {**DEFAULT_RESOURCES, **checked_resources(self.required_resources)}
        params = tuple(self.params)
        if not all(isinstance(param, Mapping) for param in params):
            raise TypeError(f"params must be mappings, not {self.params!r}")
        object.__setattr__(self, "required_resources", resources)
        object.__setattr__(self, "params", tuple(dict(param) for param in params))
        object.__setattr__(self, "arguments", _with_plain_numbers(self.arguments))
        object.__setattr__(self, "notifications", dict(self.notifications))
        _check_json(self, "params", "arguments", "notifications")
        object.__setattr__(self, "environment", dict(self.environment))
        for name, value in self.environment.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"environment must be of text only, not {name!r}: {value!r}")
        make_plain(self, ("cancel_timeout",), number)
        make_plain(self, (*_IDS, "git_credential_id", "remote_host_credential_id"), whole, least=0)
        if self.cancel_timeout < 0:
            raise ValueError("cancel_timeout must not be negative")

    @property
    def image(self) -> str:
        """The image's name with its tag."""
        return f"{self.docker_image_name}:{self.docker_image_tag}"

    @property
    def doubt(self) -> str | None:
        """What speaks against the image, if it was not chosen: perhaps it has another Python."""
        return images.doubt() if self._tag_is_a_guess else None


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template from which the workers are made as Custom Scripts.

    It is for users who may start scripts from templates only. The template's script must run the
    command `civis-futures-worker`, which comes with this package, in the image, and must have a
    parameter ``CIVIS_FUTURES_ORDER`` of type ``multi_line_string``. With `order_in_file`, its
    parameter `order_param` has the type ``integer``, and gets the id of a File.

    A template that was made for civis.parallel has such a parameter, ``JOBLIB_FUNC_FILE_ID``, and
    can be used as it is. If its image does not have civis, its command must be
    `civis-futures-worker --file ${JOBLIB_FUNC_FILE_ID}`.

    Args:
        from_template_id: the id of the template.
        arguments: values for the template's other parameters.
        order_param: the name of the parameter that takes the worker's order.
        order_in_file: whether that parameter takes the id of a File with the order, in place of
            the order itself.
        required_resources: resources in place of those of the template's script, with names and
            units as in `Container`.
        remote_host_id, credential_id: a database and its credential.
        partition_label, time_zone, target_project_id, running_as_id, notifications, hidden: as in
            `Container`.
    """

    from_template_id: int
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    order_param: str = "CIVIS_FUTURES_ORDER"
    order_in_file: bool = False
    required_resources: Mapping[str, float] | None = None
    remote_host_id: int | None = None
    credential_id: int | None = None
    partition_label: str | None = None
    time_zone: str | None = None
    target_project_id: int | None = None
    running_as_id: int | None = None
    notifications: Mapping[str, Any] = field(
        default_factory=lambda: {"success_on": False, "failure_on": False}
    )
    hidden: bool = True

    def __post_init__(self) -> None:
        """Take copies, so that a later change of the caller's dicts does not reach us."""
        _check_types(self, "arguments", "notifications")
        object.__setattr__(self, "arguments", _with_plain_numbers(self.arguments))
        object.__setattr__(self, "notifications", dict(self.notifications))
        _check_json(self, "arguments", "notifications")
        make_plain(
            self, ("from_template_id", *_IDS, "remote_host_id", "credential_id"), whole, least=0
        )
        if self.required_resources is not None:
            resources = checked_resources(self.required_resources)
            object.__setattr__(self, "required_resources", resources)

    @property
    def image(self) -> str:
        """What to call the image in a message: only the template knows it."""
        return f"the image of template {self.from_template_id}"


def _with_plain_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of these, with numbers as JSON takes them."""
    return {
        name: number(name, value)
        if isinstance(value, numbers.Real) and not isinstance(value, bool)
        else value
        for name, value in arguments.items()
    }


def image_and_tag(image: str) -> tuple[str, str]:
    """The name of an image and its tag, if it has one: ``host:5000/name:tag`` has both."""
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "")


def _check_types(of: Container | Template, *mappings: str) -> None:
    """Raise TypeError for the first field that is no mapping, or if `hidden` is no bool."""
    for name in mappings:
        if not isinstance(value := getattr(of, name), Mapping):
            raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
    if not isinstance(of.hidden, bool):
        raise TypeError(f"hidden must be True or False, not {of.hidden!r}")


def _check_json(of: Container | Template, *names: str) -> None:
    """Raise TypeError or ValueError for the first of these fields that the API cannot be sent."""
    for name in names:
        try:
            json.dumps(getattr(of, name), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} cannot be sent as JSON: {error}") from None


def script_that_is_never_run(title: str, container: Container, purpose: str) -> dict[str, Any]:
    """The body of a hidden container script that is there to be found by its name."""
    return {
        "name": title,
        "docker_image_name": container.docker_image_name,
        "docker_image_tag": container.docker_image_tag,
        "docker_command": f"echo This script {purpose}, and does nothing.",
        "required_resources": {"cpu": 256, "memory": 256, "disk_space": 1.0},
        "hidden": True,
    }


def disk_space(resources: Resources) -> float:
    """The disk that a container may use, in MB; a guess where only its template knows."""
    return 1000.0 * (resources.disk_space or DEFAULT_RESOURCES["disk_space"])


def job_kind(container: Container | Template) -> JobKind:
    """Which kind of script runs it."""
    return JobKind.CUSTOM if isinstance(container, Template) else JobKind.CONTAINER
