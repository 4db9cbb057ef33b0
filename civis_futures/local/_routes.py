"""Which request goes where. Data only: the templates are those of the official spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from . import _control, _files, _lists, _misc, _runs, _scripts
from ._exchange import Answer, Ask
from ._site import Site

PAGED = ("scripts", "custom", "jobs", "runs", "outputs")  # how the paths of lists end
Endpoint = Callable[[Site, Ask], Answer | Awaitable[Answer]]


@dataclasses.dataclass(frozen=True)
class Route:
    """One operation of the API. What is `private` is ours: neither counted nor limited."""

    method: str
    template: str
    endpoint: Endpoint
    creates_run: bool = False
    private: bool = False

    def key(self) -> tuple[str, ...]:
        """Return the segments of the path, with a star for an id."""
        return tuple("*" if part.startswith("{") else part for part in self.template[1:].split("/"))

    @property
    def paged(self) -> bool:
        """Whether it answers with pages."""
        return self.method == "GET" and self.key()[-1] in PAGED

    def names(self) -> list[str]:
        """Return the names of the ids in the path, in order."""
        return [part[1:-1] for part in self.template.split("/") if part.startswith("{")]


def _script_routes(family: str, kind: str | None, owner_field: str) -> list[Route]:
    """Return what containers and custom scripts have in common.

    A custom script's id is valid below /scripts/containers too, but not the other way round.
    """
    script = f"/scripts/{family}/{{id}}"
    run = f"{script}/runs/{{run_id}}"
    own = {"containers": "container", "custom": "custom"}[family]
    start = _runs.start_script(family, owner_field, kind)
    return [
        Route("DELETE", script, _scripts.delete(own)),
        Route("PUT", f"{script}/archive", _scripts.archive(own)),
        Route("GET", f"{script}/runs", _lists.runs_of(owner_field, kind)),
        Route("POST", f"{script}/runs", start, creates_run=True),
        Route("GET", run, _runs.get_script_run(owner_field, kind)),
        Route("DELETE", run, _runs.cancel_run(kind)),
        Route("GET", f"{run}/logs", _runs.get_logs(kind)),
        Route("GET", f"{run}/outputs", _lists.outputs_of(kind)),
        Route("POST", f"{run}/outputs", _runs.post_output(kind)),
    ]


ROUTES: list[Route] = [
    Route("POST", "/scripts/containers", _scripts.create_container),
    Route("GET", "/scripts/containers/{id}", _scripts.get_container),
    Route("PUT", "/scripts/containers/{id}", _scripts.put_container),
    Route("PATCH", "/scripts/containers/{id}", _scripts.patch_container),
    Route("POST", "/scripts/containers/{id}/clone", _scripts.clone_container),
    Route("POST", "/scripts/containers/{id}/runs/{run_id}/logs", _runs.post_logs),
    *_script_routes("containers", None, "containerId"),
    Route("GET", "/scripts/custom", _lists.list_custom),
    Route("POST", "/scripts/custom", _scripts.create_custom),
    Route("GET", "/scripts/custom/{id}", _scripts.get_custom),
    Route("PUT", "/scripts/custom/{id}", _scripts.put_custom),
    Route("PATCH", "/scripts/custom/{id}", _scripts.patch_custom),
    *_script_routes("custom", "custom", "customId"),
    Route("GET", "/scripts", _lists.list_scripts),
    Route("POST", "/scripts/{id}/cancel", _runs.cancel_script),
    Route("GET", "/jobs", _lists.list_jobs),
    Route("GET", "/jobs/{id}", _runs.get_job),
    Route("GET", "/jobs/{id}/runs", _lists.runs_of(None)),
    Route("POST", "/jobs/{id}/runs", _runs.start_job, creates_run=True),
    Route("GET", "/jobs/{id}/runs/{run_id}", _runs.get_job_run),
    Route("DELETE", "/jobs/{id}/runs/{run_id}", _runs.cancel_run()),
    Route("GET", "/jobs/{id}/runs/{run_id}/outputs", _lists.outputs_of()),
    Route("GET", "/jobs/{id}/runs/{run_id}/logs", _runs.get_logs()),
    Route("GET", "/jobs/{id}/children", _runs.get_children),
    Route("GET", "/jobs/{id}/parents", _runs.get_parents),
    Route("POST", "/files", _files.create_file),
    Route("POST", "/files/multipart", _files.create_multipart),
    Route("POST", "/files/multipart/{id}/complete", _files.complete_multipart),
    Route("GET", "/files/{id}", _files.get_file),
    Route("PATCH", "/files/{id}", _files.patch_file),
    Route("POST", "/json_values", _misc.create_json_value),
    Route("GET", "/json_values/{id}", _misc.get_json_value),
    Route("PATCH", "/json_values/{id}", _misc.patch_json_value),
    Route("GET", "/templates/scripts", _lists.list_templates),
    Route("POST", "/templates/scripts", _scripts.create_template),
    Route("GET", "/templates/scripts/{id}", _scripts.get_template),
    Route("GET", "/users/me", _misc.get_me),
    Route("GET", "/endpoints", _misc.get_endpoints),
    Route("GET", "/notifications", _misc.get_notifications),
    Route("GET", "/_local/stats", _control.get_stats, private=True),
    Route("POST", "/_local/reset", _control.post_reset, private=True),
    Route("GET", "/_local/requests", _control.get_requests, private=True),
    Route("GET", "/_local/faults", _control.get_faults, private=True),
    Route("POST", "/_local/faults", _control.post_faults, private=True),
]
