"""The anchor of a session: a script that is never run, whose name tells where the head is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import _wire
from .._api.client import PlatformClient
from .._container import Container, Template, job_kind
from .._exceptions import PlatformError
from .._types import Job
from .head import Head, head_from_json

#: What anchors are called: the session, the user, since other people's jobs are in lists, too, and
#: the JSON value with the head.
TITLE = re.compile(r"civis_futures session (?P<name>.*) \[user (?P<user>\d+), head (?P<head>\d+)\]")
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
        return _read(client, self.head.name, self.value)


def anchors(client: PlatformClient, name: str = "") -> Iterator[tuple[str, int, int]]:
    """Of my sessions, or of those of that name: name, script and head."""
    user = str(client.me())
    text = f"civis_futures session {name}"
    for page in range(1, PAGES + 1):
        rows, more = client.search_jobs(text, page)
        for row in rows:
            match = TITLE.fullmatch(row.name)
            if match and match["user"] == user and name in ("", match["name"]):
                yield match["name"], row.job_id, int(match["head"])
        if not more:
            return


def find_anchor(client: PlatformClient, name: str) -> Anchor | None:
    """The anchor of a session: the oldest one, should two have been made at the same time.

    Raises:
        PlatformError: what it names is not there, or is no head.
    """
    found = [(number, value) for _, number, value in anchors(client, name)]
    if not found:
        return None
    number, value = min(found)
    head = _read(client, name, value)
    return Anchor(Job(number, head.kind), value, head)


def _read(client: PlatformClient, name: str, value: int) -> Head:
    try:
        return head_from_json(client.get_json_value(value))
    except ValueError as error:
        path = f"/json_values/{value}"
        said = f"session {name!r} cannot be read: GET {path}: {error}"
        raise PlatformError(said, method="GET", path=path, status=200) from None


def make_anchor(client: PlatformClient, name: str, container: Container | Template) -> Anchor:
    """A new session."""
    title, user = f"civis_futures session {name}", client.me()
    inbox = client.create_json_value(f"{title} inbox", _wire.to_json(_wire.Inbox()))
    kind = job_kind(container)
    head = Head(name, client.clock.now(), kind, inbox)
    value = client.create_json_value(f"{title} head", head.to_json())
    body = _body(container, f"{title} [user {user}, head {value}]")
    mine = client.create_script(kind, body)
    found = find_anchor(client, name)
    if found is not None and found.job.id != mine.id:  # somebody was quicker
        client.archive(mine)
        return found
    return Anchor(mine, value, head)


def _body(container: Container | Template, title: str) -> dict[str, Any]:
    if isinstance(container, Template):  # who may only use templates can make no other script
        given = {} if container.order_in_file else {container.order_param: "no order: a session"}
        return {
            "name": title,
            "from_template_id": container.from_template_id,
            "arguments": {**container.arguments, **given},
            "hidden": True,
        }
    return {
        "name": title,
        "docker_image_name": container.docker_image_name,
        "docker_image_tag": container.docker_image_tag,
        "docker_command": "echo This script keeps a session of civis_futures, and does nothing.",
        "required_resources": {"cpu": 256, "memory": 256, "disk_space": 1.0},
        "hidden": True,
    }
