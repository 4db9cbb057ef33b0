"""Answers on their way out: they wait a little, so that many short calls share one request.

It knows how answers are packed into JSON values and when bytes must become a File; it does not know
how calls are run.
"""

from __future__ import annotations

import time
from dataclasses import replace

from .. import _wire
from ._http import RefusedError, UnreachableError
from ._pacing import WorkerPacing
from ._platform import Outgoing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._platform import PlatformRequests

#: Seconds that the first answers wait for company while further calls are run.
FIRST_LINGER = 0.5
#: Where answers may wait for longer than this, there are many workers, or few requests: then the
#: first answers of each wait, too, for a quarter of that time.
_CROWDED = 30.0
#: After this many failures in a row the script's name is left as it is: to change it only saves the
#: client requests.
_NAMINGS = 3
#: Statuses that say something of what was sent, and not of who sends it, or where to.
_UNFIT = (400, 413, 422)


class Outbox:
    """Answers in the order in which the calls ended."""

    def __init__(
        self,
        platform: PlatformRequests,
        worker: str,
        name: str,
        *,
        greets: bool,
        key: str = "",
        naming: float = WorkerPacing().naming,
    ) -> None:
        self._naming = naming
        self._platform = platform
        self._worker = worker
        self._key = key  # what answers are sealed with
        self._name = name  # of the script; empty if it is not to be changed
        self._unnamed = 0  # so often in a row it could not be
        self.greets = bool(name) and greets  # it shall say before its first answers that it can
        self._waiting: list[tuple[_wire.Answer, Outgoing | None]] = []
        self._size = 0  # in bytes, of their outcomes, which are in memory or on the disk
        self._oldest = 0.0
        self._urgent = False  # somebody waits for what was taken back
        self._posted = 0
        self.longest = FIRST_LINGER  # what the client allows
        self._linger = FIRST_LINGER
        self._last = 0.0  # when answers were posted

    def __bool__(self) -> bool:
        """Whether answers wait."""
        return bool(self._waiting)

    def add(self, answer: _wire.Answer, data: Outgoing | None = None) -> None:
        """Take an answer; `data` is its pickled outcome."""
        if not self._waiting:
            self._oldest = time.monotonic()
            if self._oldest - self._last > 2 * self.longest:
                self._linger = FIRST_LINGER  # after a long rest, these are first answers again
        self._waiting.append((answer, data))
        self._urgent = self._urgent or answer.kind == _wire.REVOKED
        self._size += 0 if data is None else data.size

    def due_in(self, queued: int) -> float | None:
        """Seconds until the oldest answer should go, or None if there is none.

        Sooner, if no more calls are `queued` than are answered here: the client should give more
        before the last one is done, or take back what others could do sooner.
        """
        if not self._waiting:
            return None
        # Ten megabytes do not wait: the next call may need the memory, or the disk.
        if self._urgent or self._size > 10_000_000:
            return 0.0
        linger = self._patience
        if queued and len(self._waiting) >= queued and self.longest <= _CROWDED:
            linger = min(linger, max(FIRST_LINGER, self.longest / 2))
        return max(0.0, self._oldest + linger - time.monotonic())

    def post(self) -> None:
        """Post all. If this breaks off, what has not been posted still waits."""
        answers = [self._with_data(place) for place in range(len(self._waiting))]
        if answers:
            self._send([_wire.sealed(answer, self._worker, self._key) for answer in answers])
        # The first answers tell the client how long calls take; later ones are in less of a hurry.
        self._linger = self.longest

    @property
    def _patience(self) -> float:
        """Seconds that answers wait now for others."""
        least = self.longest / 4 if self.longest > _CROWDED else 0.0
        return min(max(self._linger, least), self.longest)

    def _with_data(self, place: int) -> _wire.Answer:
        """The waiting answer at `place`, its outcome inline or uploaded."""
        answer, data = self._waiting[place]
        if data is None:
            return answer
        self._size -= data.size
        if data.size <= _wire.INLINE_LIMIT:
            blob = _wire.Blob.of(b"".join(data.pieces(0, data.size)))
            answer = _wire.made({**vars(answer), "data": blob})
        else:
            answer = self._uploaded(answer, data)
        data.close()
        self._waiting[place] = answer, None
        return answer

    def _uploaded(self, answer: _wire.Answer, data: Outgoing) -> _wire.Answer:
        name = f"civis_futures.outcome.{self._worker}.{answer.task}"
        begin = time.monotonic()
        try:
            file_id = self._platform.upload(name, data)
        except RefusedError as error:  # costs this call, and not the answers beside it
            text = f"{answer.text}\nThe outcome of {data.size:,} bytes cannot be stored: {error}"
            detail = "result" if answer.kind == _wire.RETURNED else "exception"
            return replace(answer, kind=_wire.OUTCOME_PICKLING, text=text.lstrip(), detail=detail)
        blob = _wire.Blob.in_file(file_id, data.digest(), data.size)
        return replace(answer, data=blob, upload=time.monotonic() - begin)

    def _send(self, batch: list[_wire.Answer]) -> None:
        text = _wire.answers_text(_wire.Answers(self._worker, tuple(batch)))
        if len(text) > _wire.JSON_VALUE_LIMIT and len(batch) > 1:
            half = len(batch) // 2
            self._send(batch[:half])
            self._send(batch[half:])
            return
        try:
            told = self._output(text)
        except RefusedError as error:
            if error.status not in _UNFIT:
                raise
            if len(batch) > 1:  # what is wrong with one of them shall not cost the others
                for answer in batch:
                    self._send([answer])
                return
            short = _without_what_it_says(batch[0], error)
            short = _wire.sealed(short, self._worker, self._key)
            told = self._output(_wire.answers_text(_wire.Answers(self._worker, (short,))))
        self._posted += 1
        self._urgent = False
        self._last = time.monotonic()
        del self._waiting[: len(batch)]
        if not told:
            self.tell()

    def _output(self, text: str) -> bool:
        """Post a letter; whether the script's name says so already."""
        name = _wire.answers_name(self._worker, self._posted)
        script = self._name and _wire.counted(self._name, self._posted + 1)
        return self._platform.post_output(name, text, script)

    def tell(self) -> None:
        """Say in the name of the script how many letters there are."""
        self.greets = False
        if self._name:
            try:
                self._platform.rename(_wire.counted(self._name, self._posted), self._naming)
                self._unnamed = 0
            except RefusedError:  # the client looks for itself, then, if less often
                self._name = ""
            except UnreachableError:
                self._unnamed += 1
                self._name = self._name if self._unnamed < _NAMINGS else ""


def _without_what_it_says(answer: _wire.Answer, why: RefusedError) -> _wire.Answer:
    """The answer when the platform does not take it: nothing of it but that there is one."""
    detail = "result" if answer.kind == _wire.RETURNED else "exception"
    return _wire.Answer(
        answer.task,
        _wire.OUTCOME_PICKLING,
        text=f"the answer cannot be stored: {why}",
        detail=detail,
        attempt=answer.attempt,
        started=answer.started,
        finished=answer.finished,
        key=answer.key,
    )
