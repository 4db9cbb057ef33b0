"""The anchor of a session: a script that is never run, by whose name the head is found."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import _wire
from ._api import PlatformClient
from ._exceptions import PlatformError
from ._head import Head, head_from_json
from ._script import job_kind
from ._types import Container, Job, JobKind, Template

#: What anchors are called: the session and the user, since other people's jobs are in lists, too.
TITLE = re.compile(r"civis_futures session (?P<name>.*) \[user (?P<user>\d+)\]")
#: What an anchor's argument says.
_HEAD = re.compile(r"civis_futures head (\d+)")
_PARAMETER = "CIVIS_FUTURES_SESSION"
#: How many pages of a list are read at the most; 50 rows each.
PAGES = 20


@dataclass(frozen=True, slots=True)
class Anchor:
    """A session on the platform: its script, the JSON value with its head, and that as read."""

    job: Job
    value: int
    head: Head

    def read(self, client: PlatformClient) -> Head:
        """The head as it is now."""
        return head_from_json(client.get_json_value(self.value))


def anchors(client: PlatformClient, name: str = "") -> Iterator[tuple[str, int]]:
    """Names and script ids of my sessions, or of those of that name."""
    user = str(client.me())
    text = f"civis_futures session {name}"
    for page in range(1, PAGES + 1):
        rows, more = client.search_jobs(text, page)
        for row in rows:
            match = TITLE.fullmatch(row.name)
            if match and match["user"] == user and name in ("", match["name"]):
                yield match["name"], row.job_id
        if not more:
            return


def find_anchor(client: PlatformClient, name: str) -> Anchor | None:
    """The anchor of a session: the oldest one, should two have been made at the same time."""
    numbers = [number for _, number in anchors(client, name)]
    return read_anchor(client, min(numbers)) if numbers else None


def read_anchor(client: PlatformClient, number: int) -> Anchor:
    """The anchor that is this script."""
    script, job = _script_of(client, number)
    for value in script.get("arguments", {}).values():
        match = _HEAD.fullmatch(str(value))
        if match:
            value_id = int(match[1])
            return Anchor(job, value_id, head_from_json(client.get_json_value(value_id)))
    raise PlatformError(f"script {number} is not the anchor of a session, in spite of its name")


def _script_of(client: PlatformClient, number: int) -> tuple[dict[str, Any], Job]:
    job = Job(number, JobKind.CONTAINER)
    try:
        return client.get_script(job), job
    except PlatformError as error:
        if error.status != 404:
            raise
    job = Job(number, JobKind.CUSTOM)
    return client.get_script(job), job


def make_anchor(client: PlatformClient, name: str, container: Container | Template) -> Anchor:
    """A new session."""
    title = f"civis_futures session {name} [user {client.me()}]"
    inbox = client.create_json_value(f"{title} inbox", _wire.to_json(_wire.Inbox()))
    kind = job_kind(container)
    head = Head(name, time.time(), kind, inbox)
    value = client.create_json_value(f"{title} head", head.to_json())
    body = _body(container, title, f"civis_futures head {value}")
    mine = client.create_script(kind, body)
    found = find_anchor(client, name)
    if found is not None and found.job.id != mine.id:  # somebody was quicker
        client.archive(mine)
        return found
    return Anchor(mine, value, head)


def _body(container: Container | Template, title: str, head: str) -> dict[str, Any]:
    if isinstance(container, Template):
        return {
            "name": title,
            "from_template_id": container.from_template_id,
            "arguments": {**container.arguments, container.order_param: head},
            "hidden": True,
        }
    return {
        "name": title,
        "docker_image_name": container.docker_image_name,
        "docker_image_tag": container.docker_image_tag,
        "docker_command": "echo This script keeps a session of civis_futures, and does nothing.",
        "required_resources": {"cpu": 256, "memory": 256, "disk_space": 1.0},
        "params": [{"name": _PARAMETER, "type": "string"}],
        "arguments": {_PARAMETER: head},
        "hidden": True,
    }
