"""The anchors of a session: scripts that are never run, whose names tell where the heads are.

Each process that opens the session makes one of its own. Their ids are in the order in which they
were made, and what is asked for by its id is as it is: `holding` builds on that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .._api.client import PlatformClient
from .._container.container import Container, Template, script_that_is_never_run
from .._exceptions import PlatformError
from .._types import Job, JobKind
from .._wire import TAKEN
from .head import Head, head_from_json

#: What anchors are called: the session, the user, since other people's jobs are in lists, too, and
#: the JSON value with the head; at last, whether another process has taken the session over.
TITLE = re.compile(
    r"civis_futures session (?P<name>.*) \[user (?P<user>\d+), head (?P<head>\d+)\]"
    rf"(?P<taken>{TAKEN})?"
)
#: How many pages of a list are read at the most; 50 rows each.
PAGES = 20


@dataclass(frozen=True, slots=True, order=True)
class Anchor:
    """A process that has opened a session, as its script says: `number` is the script's id, `value`
    the JSON value with the head. The older one comes first.
    """

    number: int
    session: str
    value: int
    taken: bool = False

    def read(self, client: PlatformClient) -> Head:
        """The head as it is now.

        Raises:
            PlatformError: it is not there, or is no head.
        """
        try:
            return head_from_json(client.get_json_value(self.value))
        except ValueError as error:
            path = f"/json_values/{self.value}"
            said = f"session {self.session!r} cannot be read: GET {path}: {error}"
            raise PlatformError(said, method="GET", path=path, status=200) from None

    def is_taken(self, client: PlatformClient, kind: JobKind) -> bool:
        """Whether another process has taken the session over."""
        return client.get_row(Job(self.number, kind), low_priority=False).name.endswith(TAKEN)

    def take(self, client: PlatformClient, kind: JobKind) -> None:
        """From now on, nothing counts that this process says. Twice is no harm."""
        if not self.taken:
            title = _title(self.session, client.me(), self.value)
            client.rename(Job(self.number, kind), title + TAKEN)


def anchors(client: PlatformClient, name: str = "", user: int | None = None) -> list[Anchor]:
    """Those of my sessions, or of those of that name or user; the oldest first."""
    whose = str(client.me() if user is None else user)
    found = dict[int, Anchor]()  # a row may be on two pages
    for page in range(1, PAGES + 1):
        rows, more = client.search_jobs(f"civis_futures session {name}", page, user)
        for row in rows:
            match = TITLE.fullmatch(row.name)
            if match and match["user"] == whose and name in ("", match["name"]):
                taken = match["taken"] is not None
                found[row.job_id] = Anchor(row.job_id, match["name"], int(match["head"]), taken)
        if not more:
            break
    return sorted(found.values())


def make_anchor(
    client: PlatformClient, container: Container | Template, head: Head, value: int
) -> Anchor:
    """A new one, of a head that is there. If the reply is lost, it may be there all the same."""
    body = _body(container, _title(head.name, client.me(), value))
    return Anchor(client.create_script(head.kind, body).id, head.name, value)


def _title(session: str, user: int, value: int) -> str:
    return f"civis_futures session {session} [user {user}, head {value}]"


def _body(container: Container | Template, title: str) -> dict[str, Any]:
    if isinstance(container, Template):  # who may only use templates can make no other script
        given = {} if container.order_in_file else {container.order_param: "no order: a session"}
        return {
            "name": title,
            "from_template_id": container.from_template_id,
            "arguments": {**container.arguments, **given},
            "hidden": True,
        }
    return script_that_is_never_run(title, container, "keeps a session of civis_futures")
