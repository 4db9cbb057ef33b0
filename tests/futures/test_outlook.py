"""Why tasks wait, in words: how containers are, and what is said of it."""

from __future__ import annotations

import pytest

from civis_futures._display.outlook import why_waiting
from civis_futures._types import Standing

NOW = 1000.0


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (
            Standing(10, queued=8, running=2, queued_since=970.0),
            "8 of 10 containers are queued on the platform for 30 s; 2 run",
        ),
        (
            Standing(2, queued=1, running=1, queued_since=880.0),
            "1 of 2 containers is queued on the platform for 2:00; 1 runs",
        ),
        (
            Standing(1, queued=1, queued_since=995.0),
            "the container is queued on the platform for 5 s",
        ),
        (
            Standing(3, queued=3, queued_since=995.0),
            "all 3 containers are queued on the platform for 5 s",
        ),
        (
            Standing(5, launching=3, running=2, next_start=1040.0),
            "3 of 5 containers are about to start, but the platform limits how many do: "
            "the next one may in 40 s",
        ),
        (
            Standing(0, refused="POST /scripts: 500: oops", again_at=1012.0),
            "the last try has failed, the next one is in 12 s: POST /scripts: 500: oops",
        ),
        (
            Standing(2, running=2, unseen_since=930.0, unseen="GET /scripts: 503"),
            "for 1:10 the containers could not be seen: GET /scripts: 503",
        ),
        (Standing(2, running=2, unseen_since=995.0), "the 2 containers that run are busy"),
        (
            Standing(2, queued=2, queued_since=997.0, unseen_since=970.0, unseen="no answer"),
            "for 30 s the containers could not be seen: no answer; "
            "all 2 containers are queued on the platform for 3 s",
        ),
        (
            Standing(2, running=2, probing=True),
            "the 2 containers that run are busy; "
            "more are started once one has shown that it can do the work",
        ),
        (Standing(1, running=1), "the container that runs is busy"),
        (
            Standing(10, queued=8, running=2, queued_since=999.5),
            "8 of 10 containers are queued on the platform; 2 run",
        ),
        (
            Standing(10, queued=8, launching=2, queued_since=999.5),
            "8 of 10 containers are queued on the platform; none runs",
        ),
        (
            Standing(4, running=4, idle=3),
            "1 of the 4 containers that run is busy; the others take over what waits",
        ),
        (Standing(1, running=1, idle=1), "it is on its way to a container"),
        (Standing(), "a container is about to be started"),
    ],
)
def test_what_tasks_wait_for(standing, said):
    assert why_waiting(standing, NOW) == said
