"""The parent: which call next, when to post answers, when to look for more, when to end.

One thread, so that it may fork. Calls begin in the order of the letters, each as soon as one of
the processes is free; none runs twice. How many processes there are, the order says. It unpickles
nothing and runs no user code: that is for children, which may die of it without taking us along.

An only child is given small calls ahead, to wait for nobody between them. Before we decide on any
of these, they are taken back; what cannot be taken back has begun.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque

from .. import _wire
from ._buffers import Buffers
from ._frames import term
from ._http import HttpError, RefusedError, UnreachableError
from ._inbox import InboxReader
from ._outbox import Outbox
from ._platform import Outgoing
from ._process import Children, DiedError, Process, wait_for_any
from ._slots import FetchedCall, Refusal, Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._lines import Lines
    from ._pacing import WorkerPacing
    from ._platform import PlatformRequests


_AHEAD = 32  # calls that a child may have at the most besides the one that it runs


class Terminated(SystemExit):
    """A TERM has come."""


class StartedAgainError(Exception):
    """Another life of this worker was here before."""


class WorkerLoop:
    """Answers the calls of an order, in processes of its own."""

    def __init__(
        self, order: _wire.Order, platform: PlatformRequests, folder: str, pacing: WorkerPacing
    ) -> None:
        self._order = order
        self._pacing = pacing
        self._platform = platform
        self._folder = folder
        self._buffers = Buffers(platform, folder, order.disk)
        # The end of a run is news enough; only who goes on has to say that there are answers.
        stays = order.inbox is not None and not order.letter.stop
        self._outbox = Outbox(
            platform,
            order.worker,
            order.name if stays else "",
            greets=order.greets,
            key=order.key,
            naming=pacing.naming,
        )
        self._inbox = None if order.inbox is None else InboxReader(platform, order, pacing)
        self._stop = order.inbox is None
        self._alone = len(order.letter.calls) == 1 and (self._stop or order.letter.stop)
        self._taken: set[str] = set()  # every call ever seen: an inbox names them again
        self._queue: deque[_wire.Call] = deque()
        self._fetched: dict[str, FetchedCall] = {}  # at most the next call, fetched ahead
        self._printed = order.initializer is not None  # whether user code may have printed
        self._again: set[str] = set()  # calls whose child ended before it began them
        self._children = Children()
        several = order.processes > 1 and not self._alone
        numbers = range(1, order.processes + 1) if several else [0]
        self._slots = [Slot(number) for number in numbers]
        self._lines: Lines | None = None  # what their processes print into, if they are several
        self._initializer: FetchedCall | None = None
        self._refusal: Refusal | None = None  # why none can be run

    def run(self) -> None:
        """Answer calls until there are no more, and post the answers."""
        try:
            self._raise_if_started_again()
            self._prepare()
            self._answer_all()
        except Terminated:
            self._hear_who_has_ended()
            for process in (processes := [s.process for s in self._slots if s.process]):
                process.terminate()  # it gets the TERM too, and time, while answers go out
            self._last_words()
            for process in processes:
                process.wait()
            raise
        except StartedAgainError:  # which has answered nothing
            raise
        except Exception:  # the inbox is refused, say: what has ended shall not be lost with that
            self._hear_who_has_ended()
            self._last_words()
            raise
        finally:
            self._end_all()

    @property
    def _running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.calls]

    def _end_all(self) -> None:
        """Let the processes end, and what they have printed come out."""
        for slot in self._slots:
            if slot.process is not None:
                slot.process.end()
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _raise_if_started_again(self) -> None:
        """End if the platform has started this container before, within the same run.

        What that one had begun would run twice, and its letters have the numbers of ours. Now the
        client sees to the calls, as when a container dies: the log has what began. Who answers one
        call alone does not say so there: it would be one more request for each call.
        """
        if not self._alone and self._was_here():
            raise StartedAgainError(_wire.STARTED_AGAIN)

    def _was_here(self) -> bool:
        try:
            lines = self._platform.first_lines()
        except RefusedError:
            pass
        else:
            return any(_wire.BEGIN_LINE.search(line.rstrip()) for line in lines)
        try:
            names = self._platform.newest_outputs()
        except RefusedError:  # then it cannot be known
            return False
        return any(_wire.answers_number(name, self._order.worker) is not None for name in names)

    def _take_first(self) -> None:
        """Take in what the order says, as far as it still holds."""
        order, inbox, letter = self._order, self._inbox, None
        # What waited for this container may have been taken back meanwhile.
        if inbox is not None and not (self._alone and self._is_from_holder()):
            letter = self._look()
            while not (inbox.known or inbox.silent()):
                time.sleep(inbox.due_in(eager=True))
                letter = self._look()
            if not inbox.known:
                return
            if letter is None and inbox.holder != order.holder:
                # Another process has the session, and does not know of this worker.
                calls = tuple((call.task, call.attempt) for call in order.letter.calls)
                letter = _wire.Letter(stop=True, revoked=calls)
        self._take(order.letter)
        self._take(letter)

    def _is_from_holder(self) -> bool:
        """Whether who gave the order still has the session, if it is of one."""
        return not (self._order.holder and self._platform.is_taken(self._order.holder))

    def _answer_all(self) -> None:
        self._take_first()
        while True:
            at_rest = not (self._queue or self._running)
            if self._inbox is not None and self._inbox.silent(at_rest):
                self._hear_who_has_ended()
                for slot in self._slots:
                    self._end_process(slot)
                self._end_all()
                print(_wire.IDLE_SILENCE if at_rest else _wire.SILENCE, flush=True)
                self._outbox.post()
                return
            self._start_next()  # before posting, so that posting and computing overlap
            if self._outbox and (self._idle or self._outbox.due_in(self._left) == 0):
                self._outbox.post()
            if self._outbox.greets:
                self._outbox.tell()
            if self._running:
                self._fetch_ahead()
                self._await_answer()
            elif self._stop or self._inbox is None:
                return
            else:
                self._take(self._look(wait=True))

    @property
    def _idle(self) -> bool:
        """Whether there is a process, or room for one, that has nothing to do."""
        return not all(slot.calls for slot in self._slots)

    @property
    def _left(self) -> int:
        """How many calls no child has come to, as far as we have heard."""
        return len(self._queue) + sum(len(slot.calls) - 1 for slot in self._running)

    @property
    def _eager(self) -> bool:
        """Whether news in the inbox would be taken up at once."""
        return bool(self._left) or self._idle or len(self._slots) > 1

    def _look(self, wait: bool = False) -> _wire.Letter | None:
        """Read the inbox; `wait` until there is news, or it is time, if nothing else is to do."""
        assert self._inbox is not None
        letter = self._inbox.wait() if wait else self._inbox.look()
        self._outbox.longest = self._inbox.linger
        return letter

    def _prepare(self) -> None:
        """Find out whether calls can be run here at all."""
        ours = "{}.{}".format(*sys.version_info)
        if self._order.python != ours:
            text = f"the client runs Python {self._order.python}, the container Python {ours}"
            self._refusal = Refusal(_wire.PYTHON_MISMATCH, text, ours)
        else:
            self._have_initializer()

    def _have_initializer(self) -> None:
        """Have what each new process runs first, if there is that."""
        blob = self._order.initializer
        if blob is None or (self._initializer is not None and self._initializer.here):
            return
        order = self._order
        fetched = self._fetch(
            "initializer", blob, order.initializer_buffers, order.initializer_code
        )
        self._initializer = fetched
        if fetched.problem:
            self._refusal = Refusal(_wire.CALL_NOT_FETCHED, fetched.problem)

    def _take(self, letter: _wire.Letter | None) -> None:
        """Queue the calls of a letter that are new, and give back those that are revoked."""
        if letter is None:
            return
        self._stop = self._stop or letter.stop
        new = [call for call in letter.calls if _name(call) not in self._taken]
        self._taken.update(_name(call) for call in new)
        self._queue.extend(new)
        self._take_back({f"{task}-{attempt}" for task, attempt in letter.revoked + letter.ended})
        for task, attempt in letter.ended:
            for slot in self._running:
                call = slot.calls[0]
                if _name(call) == f"{task}-{attempt}":
                    self._end_process(slot)
                    self._answer(call, _wire.REVOKED, "")
        for task, attempt in letter.revoked + letter.ended:
            self._revoke(task, attempt)

    def _take_back(self, names: set[str] | None = None) -> None:
        """Queue again what children were given ahead, where that is one of these calls (None: any).
        What their children have begun is the first of theirs then.
        """
        for slot in self._running:
            if names is None or any(_name(call) in names for call in slot.calls):
                self._queue_again(slot)
                while len(slot.calls) > 1 and self._listen(slot, 0):  # which have ended
                    pass

    def _queue_again(self, slot: Slot) -> None:
        """Queue what the child has not begun but for the first, if it has several calls."""
        if slot.process is not None and len(slot.calls) > 1:
            for _ in range(slot.process.take_back(len(slot.calls) - 1)):
                self._queue.appendleft(slot.calls.pop())

    def _revoke(self, task: int, attempt: int) -> None:
        """Never begin this call; too late if it runs, or has run."""
        name = f"{task}-{attempt}"
        waiting = [call for call in self._queue if _name(call) == name]
        if not waiting and name in self._taken:
            return
        self._taken.add(name)
        for call in waiting:
            self._queue.remove(call)
        fetched = self._fetched.pop(name, None)
        if fetched is not None and fetched.path is not None and fetched.here:
            os.unlink(fetched.path)
        self._buffers.release(f"call-{name}")
        key = waiting[0].key if waiting else ""
        self._outbox.add(_wire.Answer(task, _wire.REVOKED, attempt=attempt, key=key))

    def _start_next(self) -> None:
        """Give each child that is free its next call; answer at once those that cannot be run."""
        while self._queue and (slot := self._free_slot()) is not None:
            call = self._queue.popleft()
            fetched = self._fetched.pop(_name(call), None)
            if slot.process is None or not slot.process.alive():
                self._have_initializer()
            if self._refusal is not None:
                self._refuse(call, self._refusal)
                continue
            if fetched is None or not fetched.here:
                fetched = self._fetch_call(call)
            if fetched.problem:
                self._answer(call, _wire.CALL_NOT_FETCHED, fetched.problem)
                continue
            process = self._living_process(slot, fetched)
            slot.calls.append(call)
            slot.since = time.time()
            if slot.ready:
                process.limit(call.timeout)
            process.send(self._header(slot, call, fetched), fetched.body)
        for slot in self._running:
            while self._queue and self._give_ahead(slot, self._queue[0]):
                slot.calls.append(self._queue.popleft())
            if slot.process is not None:
                slot.process.permit()

    def _give_ahead(self, slot: Slot, call: _wire.Call) -> bool:
        """Give a child that is at a call the next one, too, if nothing is to be done for it before.

        Not beside other children, as calls begin in their order; nor those with limits of their
        own, since only the child knows when they begin, or whose files a call before might remove.
        """
        process, name = slot.process, _name(call)
        small = call.data.file_id is None and len(call.buffers) == call.code
        limited = call.timeout is not None or slot.calls[0].timeout is not None
        if process is None or not slot.ready or len(slot.calls) > _AHEAD or len(self._slots) > 1:
            return False
        if not small or limited or name in self._again or not self._buffers.has(call.buffers):
            return False
        fetched = self._fetched[name] = self._fetched.get(name) or self._fetch_call(call)
        if fetched.problem or not process.takes(fetched.code):
            return False
        if not process.send_ahead(self._header(slot, call, fetched), fetched.body):
            return False
        del self._fetched[name]
        self._note_modules(slot, fetched)
        return True

    def _free_slot(self) -> Slot | None:
        """One without a call, if there is any; rather one that has a process."""
        free = [slot for slot in self._slots if not slot.calls]
        return min(free, key=lambda slot: slot.process is None, default=None)

    def _header(self, slot: Slot, call: _wire.Call, fetched: FetchedCall) -> dict[str, Any]:
        """What the child is told of a call. It says so in the log when that begins, if there may be
        others in there.
        """
        header: dict[str, Any] = {"name": _name(call), "path": fetched.path}
        header["buffers"] = fetched.buffers
        if fetched.modules:
            header["modules"] = fetched.modules
        if not self._alone:
            # On a line of its own: whatever wrote the last one may have ended without a newline.
            start = "\n" if self._printed else ""
            header["title"] = start + _wire.begin_line(call.task, call.attempt, slot.number)
        self._printed = True
        return header

    def _living_process(self, slot: Slot, call: FetchedCall) -> Process:
        """The child, or a new one if the call has another version of the user's modules: a process
        that has imported the old one cannot forget it.
        """
        process = slot.process
        if process is not None and not (process.alive() and process.takes(call.code)):
            process.end()
            slot.process, slot.modules = None, []
            if call.modules:
                from ._code import tidy

                others = [folder for other in self._slots for folder in other.modules]
                tidy(self._folder, [*others, *self._modules(call)])
        self._note_modules(slot, call)
        if slot.process is None:
            slot.ready = self._initializer is None
            first, payload = self._initializer, None
            if first is not None:  # what the call brings too is the call's
                payload = first.body, first.path, first.buffers, self._modules(call)
            code = call.code or (first.code if first is not None else set())
            slot.process = Process(self._folder, payload, code, self._pacing, self._children)
            if slot.number and self._lines is None:
                from ._lines import Lines

                self._lines = Lines(len(self._slots), self._platform.http.close)
            slot.process.start(lambda: self._in_child(slot))
        return slot.process

    def _in_child(self, slot: Slot) -> None:
        """Leave what is the parent's, or another child's."""
        self._platform.http.close()
        for other in self._slots:
            if other is not slot and other.process is not None:
                other.process.let_go()
        if self._lines is not None:
            self._lines.print_as(slot.number)

    def _note_modules(self, slot: Slot, call: FetchedCall) -> None:
        slot.modules.extend(x for x in self._modules(call) if x not in slot.modules)

    def _modules(self, call: FetchedCall) -> list[str]:
        """The folders with modules that a new process may need."""
        return [*call.modules, *([] if self._initializer is None else self._initializer.modules)]

    def _fetch_ahead(self) -> None:
        """Fetch the next call while the children work on others."""
        ready = any(slot.ready for slot in self._slots) and self._left == len(self._queue)
        if ready and self._queue and not self._fetched and self._refusal is None:
            self._fetched[_name(self._queue[0])] = self._fetch_call(self._queue[0])

    def _fetch_call(self, call: _wire.Call) -> FetchedCall:
        return self._fetch(f"call-{_name(call)}", call.data, call.buffers, call.code)

    def _fetch(
        self, name: str, blob: _wire.Blob, buffers: tuple[_wire.Blob, ...], code: int
    ) -> FetchedCall:
        """`code`: how many of the buffers, the last ones, are zips with modules."""
        try:
            fetched = FetchedCall(path=os.path.join(self._folder, name))
            paths = self._buffers.hold(name, buffers)
            fetched.buffers = paths[: len(paths) - code]
            if code:
                from ._code import unpacked  # most workers have none

                fetched.code = {blob.sha256 for blob in buffers[-code:]}
                folder = os.path.join(self._folder, _wire.code_folder(fetched.code))
                fetched.modules = [folder]
                unpacked(paths[-code:], folder)
            if blob.file_id is None:
                fetched.body, fetched.path = blob.inline_data(), None
            else:
                self._platform.download(blob.file_id, str(fetched.path), blob)
            return fetched
        except UnreachableError:
            raise
        except (HttpError, OSError, ValueError, TypeError) as error:
            return FetchedCall(problem=str(error))

    def _await_answer(self) -> None:
        """Wait for a child's answer, but not longer than anything else can wait."""
        running, patience = self._running, self._patience()
        if len(running) > 1:
            wait_for_any([slot.process for slot in running if slot.process is not None], patience)
            patience = 0.0
        inbox, heard = self._inbox, [self._listen(slot, patience) for slot in running]
        if inbox is not None and not any(heard) and inbox.due_in(self._eager, self._idle) == 0:
            self._take(self._look())

    @term()  # which would lose what was read and not taken in; while we wait, it comes through
    def _listen(self, slot: Slot, patience: float | None) -> bool:
        """Take in what the child of a call says within `patience` seconds; or its end."""
        assert slot.process is not None
        try:
            heard = frame = slot.process.receive(patience)
            while frame is not None:
                self._hear(slot, *frame)
                frame = slot.process.next_frame() if slot.calls and slot.process else None
        except DiedError as death:
            self._crashed(slot, death)
            return True
        return heard is not None

    def _hear(self, slot: Slot, header: dict[str, Any], body: bytes) -> None:
        """The child has said something: of its start, or of the running call."""
        call = slot.calls[0]
        assert slot.process is not None
        if slot.process.expired:  # the TERM has become an exception in user code
            self._end_process(slot)
            self._time_out(slot, call, 0.0)
        elif "ready" not in header:
            self._finished(slot, call, header, body)
        elif header["ready"]:
            slot.ready = True
            slot.process.limit(call.timeout)
        else:
            self._refusal = Refusal(_wire.INITIALIZER, header["text"], frames=header["frames"])
            self._refuse(call, self._refusal)

    def _patience(self) -> float | None:
        """Seconds until there is something else to do than to wait for the children."""
        waits = [self._outbox.due_in(self._left)]
        if self._inbox is not None:
            waits.append(self._inbox.due_in(self._eager, self._idle))
        return min((wait for wait in waits if wait is not None), default=None)

    def _time_out(self, slot: Slot, call: _wire.Call, peak_mb: float) -> None:
        """The running call has had its time."""
        text = f"it ran for longer than its timeout of {call.timeout:g} s"
        self._answer(call, _wire.TIMED_OUT, text, started=slot.since, peak_mb=peak_mb)

    @staticmethod
    def _end_process(slot: Slot) -> None:
        """End a child, and with it what it runs."""
        if slot.process is not None:
            slot.process.stop()
            slot.process = None

    def _finished(self, slot: Slot, call: _wire.Call, header: dict[str, Any], body: bytes) -> None:
        _, path, has_data, last = (header.pop(key) for key in ("name", "path", "data", "last"))
        assert slot.process is not None
        slot.process.limit(None)
        if last:  # the call has made of it what no other call could run in
            self._queue_again(slot)
            slot.process.end()
            slot.process = None
        try:
            source = Outgoing(body, path) if has_data else None
            frames = tuple(_wire.Frame(**frame) for frame in header.pop("frames"))
            answer = _wire.checked(
                _wire.Answer(call.task, attempt=call.attempt, key=call.key, frames=frames, **header)
            )
        except (OSError, TypeError, ValueError) as error:  # user code has removed it, or changed us
            self._answer(call, _wire.CRASHED, f"its answer is lost: {error}", started=slot.since)
            return
        self._done_with(call)
        self._outbox.add(answer, source)
        self._drained()

    def _done_with(self, call: _wire.Call) -> None:
        """A call has ended: its child has room for another one."""
        for slot in self._running:
            if slot.calls[0] is call:
                slot.calls.popleft()
                slot.since = time.time()
        self._buffers.release(f"call-{_name(call)}")

    def _crashed(self, slot: Slot, death: DiedError) -> None:
        call = slot.calls[0]
        assert slot.process is not None
        if slot.process.expired:
            self._time_out(slot, call, death.peak_mb)
            return
        if self._initializer is not None and not slot.ready:
            self._refusal = Refusal(_wire.INITIALIZER, f"the process ended in it: {death}")
            self._refuse(call, self._refusal)
            return
        # An earlier call may be the reason.
        begun = len(slot.calls) > death.unbegun
        for _ in range(death.unbegun - (_name(call) in self._again and not begun)):
            self._queue.appendleft(slot.calls.pop())
        if not slot.calls:
            self._again.add(_name(call))
            return
        kind = _wire.MEMORY if death.memory else _wire.CRASHED
        text = f"the process ended before the call did: {death}"
        code = str(death.code)
        for call in [*slot.calls]:  # if an answer was damaged, others may have begun since
            self._answer(call, kind, text, code, started=slot.since, peak_mb=death.peak_mb)

    def _refuse(self, call: _wire.Call, why: Refusal) -> None:
        self._answer(call, why.kind, why.text, why.detail, frames=why.frames)

    def _answer(
        self,
        call: _wire.Call,
        kind: str,
        text: str,
        detail: str = "",
        *,
        started: float | None = None,
        peak_mb: float = 0.0,
        frames: tuple[_wire.Frame, ...] = (),
    ) -> None:
        """Answer a call that gave no outcome."""
        now = time.time()
        answer = _wire.Answer(
            call.task,
            kind,
            None,
            text,
            detail,
            call.attempt,
            started=started or now,
            finished=now,
            peak_mb=peak_mb,
            key=call.key,
            frames=frames,
        )
        self._done_with(call)
        self._outbox.add(answer)
        self._drained()

    def _drained(self) -> None:
        """A call has ended; if it was the last one, more are welcome soon."""
        if not self._left and self._inbox is not None:
            self._inbox.restart()

    def _hear_who_has_ended(self) -> None:
        """Take in the answers of calls that have ended meanwhile; none begins any more."""
        self._take_back()
        for slot in self._running:
            if slot.process is not None:
                self._listen(slot, 0)

    def _last_words(self) -> None:
        """Post the answers that are left, if that can be done soon."""
        if self._outbox:
            self._platform.http = self._platform.http.anew(self._pacing.last_post)
            try:
                self._outbox.post()
            except (HttpError, OSError) as error:
                print(f"civis_futures: answers were lost: {error}", file=sys.stderr, flush=True)


def _name(call: _wire.Call) -> str:
    """What tells a call from all others, the earlier attempts of its task included."""
    return f"{call.task}-{call.attempt}"
