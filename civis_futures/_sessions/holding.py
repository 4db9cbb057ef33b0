"""Who holds a session: one process after another, though there is no compare-and-swap.

What the platform has is this: ids in the order in which things were made, lists that show
everything after a while, and what is asked for by its id is as it is. So a process that wants a
session makes an anchor of its own, waits for as long as lists may lag behind, and then sees all
that are older:

* If the holder of an older one may be there, that one has the session. Of several who come at the
  same time, the first one gets it.
* If not, the older ones are marked as taken; *after that*, what they have given away is read.

Whose anchor is taken may not know it yet: a laptop that wakes up. So orders and the inbox name the
anchor of who wrote them, and before a worker does something new that they say, it asks, by the id,
whether that is taken. If it was not, then what the worker has read was there before it was marked,
and so the next holder has read it too; else it does nothing of it. A mark is never taken back.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .. import _wire
from .._api.client import PlatformClient
from .._api.failures import is_ambiguous
from .._container.container import Container, Template, job_kind
from .._exceptions import PlatformError, SessionInUseError, SessionMismatchError
from .._types import Job, JobKind
from .anchor import Anchor, anchors, make_anchor
from .head import Head, Holder

_log = logging.getLogger(__name__)

#: How often an anchor is made of which nothing is to be seen.
TRIES = 3

Heads = dict[Anchor, Head]


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that is ours: our anchor; our head, which is yet to be written; and the anchors of
    those before us, which are of no use once it is. It is `seized` from one that may still write.
    """

    anchor: Anchor
    head: Head
    before: tuple[Anchor, ...]
    seized: bool


def heads(client: PlatformClient, found: Iterable[Anchor]) -> Heads:
    """The heads of these anchors."""
    return {anchor: anchor.read(client) for anchor in found}


def latest(known: Heads) -> Head | None:
    """What the session is: the newest head that is ready; None if there is none."""
    ready = [anchor for anchor, head in known.items() if head.ready]
    return known[max(ready)] if ready else None


def raise_if_held(name: str, known: Heads, now: float, silence: float) -> None:
    """Raise SessionInUseError if a process may hold the session, or is about to; `now` is by the
    platform's clock. A holder that has given no sign of life for `silence` seconds is gone.
    """
    for anchor, head in known.items():
        if not (anchor.taken or head.holder is None or head.holder.gone(now, silence)):
            raise in_use(name, head.holder)


def claim(client: PlatformClient, name: str, container: Container | Template) -> Claim:
    """Become the holder of a session, which is begun if there is none.

    Raises:
        SessionInUseError: another process holds it.
        SessionMismatchError: it was begun with a Template, and this is a Container, or vice versa.
        PlatformError: the platform cannot be reached, or refuses.
    """
    kind = job_kind(container)
    known = heads(client, anchors(client, name))
    now = client.clock.now()  # of an answer: anchors have been looked for
    raise_if_held(name, known, now, client.pacing.holder_gone)
    _check_kind(latest(known), kind, name)
    holder = Holder.here(now)
    draft = Head(name, holder.since, kind, holder=holder)
    mine, others = _anchored(client, container, draft)
    try:
        before = _take_over(client, mine, others, kind)
        known = heads(client, before)
        found = latest(known)
        _check_kind(found, kind, name)
        if found is None:
            inbox = client.create_json_value(
                f"civis_futures session {name} inbox",
                _wire.to_json(_wire.Inbox(holder=mine.number)),
            )
            head = replace(draft, inbox=inbox, key=secrets.token_hex(32))
        else:
            head = replace(found, holder=holder, ready=False)
    except BaseException:
        withdraw(client, mine, kind)
        raise
    return Claim(mine, head, before, any(head.holder is not None for head in known.values()))


def withdraw(client: PlatformClient, anchor: Anchor, kind: JobKind) -> None:
    """There is nothing to be found at this anchor."""
    try:
        client.archive(Job(anchor.number, kind))
    except PlatformError as error:
        _log.warning("script %s of session %s is left: %s", anchor.number, anchor.session, error)


def _anchored(
    client: PlatformClient, container: Container | Template, head: Head
) -> tuple[Anchor, list[Anchor]]:
    """An anchor of our own, and all others that are older, or may be."""
    failure: PlatformError | None = None
    value = client.create_json_value(f"civis_futures session {head.name} head", head.to_json())
    for _ in range(TRIES):
        made: Anchor | None = None
        try:
            made = make_anchor(client, container, head, value)
        except PlatformError as error:
            if not is_ambiguous(error):
                raise
            failure = error
        client.wait_out_lag()
        found = anchors(client, head.name)
        # Of a lost reply there may be another one of ours.
        mine = min((anchor for anchor in found if anchor.value == value), default=made)
        if mine is not None:
            return mine, [anchor for anchor in found if anchor != mine]
    assert failure is not None
    raise failure


def _take_over(
    client: PlatformClient, mine: Anchor, others: list[Anchor], kind: JobKind
) -> tuple[Anchor, ...]:
    """Mark all older anchors as taken, if their holders are gone."""
    same = [anchor for anchor in others if anchor.value == mine.value]
    known = heads(client, (anchor for anchor in others if anchor not in same))
    older = {anchor: head for anchor, head in known.items() if anchor.number < mine.number}
    raise_if_held(mine.session, older, client.clock.now(), client.pacing.holder_gone)
    newer = {anchor: head for anchor, head in known.items() if anchor not in older}
    overtaken = latest(newer)
    if mine.taken or overtaken is not None:
        raise in_use(mine.session, None if overtaken is None else overtaken.holder)
    for anchor in older:
        anchor.take(client, kind)
    return (*older, *same)


def _check_kind(head: Head | None, kind: JobKind, name: str) -> None:
    """Scripts of one kind cannot be found, nor ended, as if they were of the other."""
    if head is not None and head.kind is not kind:
        before, now = "a Container", "a Template"
        if head.kind is JobKind.CUSTOM:
            before, now = now, before
        raise SessionMismatchError(
            f"session {name!r} was begun with {before}, and now there is {now}: give it what "
            f"it had, or take another name"
        )


def in_use(name: str, holder: Holder | None) -> SessionInUseError:
    """The error that says who holds it."""
    who = "another process" if holder is None else str(holder)
    return SessionInUseError(f"session {name!r} is held by {who}: shut that executor down first")
