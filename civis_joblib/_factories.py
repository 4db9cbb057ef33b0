"""Backends by name: for `joblib.register_parallel_backend`, as `civis.parallel` made them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import joblib

from civis_futures import Container, Template, this_container

from ._backend import EXECUTOR_OPTIONS, CivisBackend, check_names

Factory = Callable[..., CivisBackend]
#: What parameters of civis.parallel were for, where there is nothing left to set.
_NEEDLESS = {
    "polling_interval": "one request looks at all containers, as often as the rate limit allows",
    "max_submit_retries": "requests are repeated whenever that is safe",
}


#: Parameters of ours that are no field of a container and no option of the executor.
_OWN = {"client", "max_job_retries", "remote_backend", *_NEEDLESS}


@dataclass(frozen=True)
class _Client:
    """What a `civis.APIClient` knows: where the platform is, and the key."""

    url: str
    api_key: str = field(repr=False)


def register(**options: Any) -> None:
    """Make ``parallel_config("civis")`` and ``Parallel(backend="civis")`` run in containers.

    Args:
        **options: of `ContainerPoolExecutor`; `max_workers` is what ``n_jobs=-1`` means (50).
            And `remote_backend`: what a `Parallel` within a task runs on; "sequential" by default.
    """
    CivisBackend(**options)  # names and values are wrong here, not at the first use
    joblib.register_parallel_backend("civis", partial(CivisBackend, **options))


def make_backend_factory(
    docker_image_name: str = "civisanalytics/datascience-python",
    client: Any = None,
    polling_interval: float | None = None,
    setup_cmd: str | None = None,
    max_submit_retries: int = 0,
    max_job_retries: int = 0,
    hidden: bool = True,
    remote_backend: Any = "sequential",
    **options: Any,
) -> Factory:
    """A factory of backends whose workers are container scripts.

    Args:
        docker_image_name, setup_cmd, hidden: as in `Container`.
        client: a `civis.APIClient`, for its key; or give a `platform`, or neither.
        polling_interval, max_submit_retries: not needed any more.
        max_job_retries: `max_retries`, of the executor.
        remote_backend: what a `Parallel` within a task runs on.
        **options: more fields of `Container`, or options of `ContainerPoolExecutor`.
    """
    _say_needless(polling_interval=polling_interval, max_submit_retries=max_submit_retries)
    options.update(docker_image_name=docker_image_name, setup_cmd=setup_cmd, hidden=hidden)
    options = {"max_retries": max_job_retries, "remote_backend": remote_backend, **options}
    return _factory(Container, client, options)


def infer_backend_factory(
    required_resources: Mapping[str, float] | None = None,
    params: Iterable[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    client: Any = None,
    polling_interval: float | None = None,
    setup_cmd: str | None = None,
    max_submit_retries: int = 0,
    max_job_retries: int = 0,
    hidden: bool = True,
    remote_backend: Any = "sequential",
    **options: Any,
) -> Factory:
    """A factory of backends whose containers are like the one that this runs in.

    Args:
        required_resources, params, arguments: come on top of those of this container.
        **options: as in `make_backend_factory`, like all others; they replace what is inferred.

    Raises:
        RuntimeError: this is no container of Civis Platform, or its script cannot be read.
    """
    _say_needless(polling_interval=polling_interval, max_submit_retries=max_submit_retries)
    ours = this_container(_platform(client, options.get("platform")))
    by_name = {str(param["name"]).upper(): param for param in ours.params}
    for param in params or ():
        name = str(param["name"]).upper()
        by_name[name] = {**by_name.get(name, {}), **param}
    given = {name: value for name, value in options.items() if value is not None}
    return make_backend_factory(
        **{
            **{each.name: getattr(ours, each.name) for each in fields(Container)},
            **given,
            "required_resources": {**ours.required_resources, **(required_resources or {})},
            "params": tuple(by_name.values()),
            "arguments": {**ours.arguments, **(arguments or {})},
            "client": client,
            "setup_cmd": setup_cmd,
            "max_job_retries": max_job_retries,
            "hidden": hidden,
            "remote_backend": remote_backend,
        },
    )


def make_backend_template_factory(
    from_template_id: int,
    arguments: Mapping[str, Any] | None = None,
    client: Any = None,
    polling_interval: float | None = None,
    max_submit_retries: int = 0,
    max_job_retries: int = 0,
    hidden: bool = True,
    **options: Any,
) -> Factory:
    """A factory of backends whose workers are custom scripts of a template.

    Args:
        from_template_id: a template whose command ends in ``civis_joblib_worker``, of this
            package, and which has a parameter ``JOBLIB_FUNC_FILE_ID``.
        arguments: values for its other parameters.
        **options: more fields of `Template`; all else as in `make_backend_factory`.
    """
    _say_needless(polling_interval=polling_interval, max_submit_retries=max_submit_retries)
    options.update(from_template_id=from_template_id, arguments=arguments, hidden=hidden)
    options.update(order_param="JOBLIB_FUNC_FILE_ID", order_in_file=True)
    return _factory(Template, client, {"max_retries": max_job_retries, **options})


def _factory(kind: type[Container | Template], client: Any, options: dict[str, Any]) -> Factory:
    names = {each.name for each in fields(kind)}
    check_names(options, names | (EXECUTOR_OPTIONS - {"container"}) | _OWN)
    given = {name: options.pop(name) for name in names & options.keys()}
    container = kind(**{name: value for name, value in given.items() if value is not None})
    options["platform"] = _platform(client, options.get("platform"))
    make = partial(CivisBackend, container=container, **options)
    make()  # what is wrong is wrong here, not at the first use
    return make


def _platform(client: Any, platform: Any) -> Any:
    session = getattr(client, "_session_kwargs", None)  # it has no public name for its key
    if platform is not None or session is None:
        return platform if client is None else (platform or client)
    url = os.environ.get("CIVIS_API_ENDPOINT") or "https://api.civisanalytics.com/"
    return _Client(url, session["api_key"])


def _say_needless(**given: Any) -> None:
    for name, value in given.items():
        if value:
            reason = _NEEDLESS[name]
            warnings.warn(f"{name} is not needed any more: {reason}", UserWarning, stacklevel=3)
