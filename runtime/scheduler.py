"""Several requests at once: prompts one by one, new tokens together.

What it is: a queue, and the requests that run, each in a slot of one KV pool. What it does not know: how a request
draws, makes text and ends (`request.py`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Unpack

import numpy as np

from allrounder.chat.messages import Messages
from allrounder.errors import AllRounderError, InputInvalid, RequestCancelled
from allrounder.runtime.answer import Answer
from allrounder.runtime.door import Door
from allrounder.runtime.request import Request, RequestOptions, Running, prepare, start

__all__ = ["Event", "Scheduler"]


class Event(NamedTuple):
    """What a step gave a request: a piece of its text, and at its end the answer, or the error that ended it."""

    id: int
    piece: str = ""
    answer: Answer | None = None
    error: AllRounderError | None = None

    @property
    def end(self) -> Answer | AllRounderError | None:
        """The answer or the error, where the request has ended."""
        return self.answer or self.error


class _Queued(NamedTuple):
    request: Request
    since: float


class _Slot(NamedTuple):
    id: int
    running: Running


class Scheduler:
    """Answers several requests at once; made by `Runtime.scheduler`.

    Each `step` draws one token for every request that runs, then runs the prompt of the longest waiting one, if a slot
    is free: a prompt takes as long as many steps, so there is never more than one between two tokens of a request.
    Under a dynamic layer policy, or with one slot, a request runs alone from its prompt to its end.

    `add` may be called by any thread at any time, `step` and `finish` by one thread at a time. `Runtime.close` cancels
    all requests.

    Attributes:
        slots: How many requests run at once.
    """

    def __init__(self, door: Door, slots: int | None) -> None:
        self._door, self._engine = door, door.engine()
        limit = self._engine.limits.batch
        slots = limit if slots is None else slots
        if not isinstance(slots, int) or isinstance(slots, bool) or not 1 <= slots <= limit:
            raise InputInvalid(
                "impossible number of slots",
                where="slots",
                got=repr(slots),
                wanted=f"1 to {limit}",
                remedy="take fewer, or build another bundle with a higher --max-batch",
            )
        self.slots = 1 if self._engine.entry.pruning.layer_policy == "dynamic" else slots
        self._pool = self._engine.pool(slots) if self.slots > 1 else None
        self._ids = itertools.count()
        self._queue: dict[int, _Queued] = {}  # lower ids came first
        self._running: list[_Slot] = []  # by slot of the pool

    @property
    def pending(self) -> int:
        """How many requests wait or run."""
        return len(self._queue) + len(self._running)

    def add(self, messages: Messages, **options: Unpack[RequestOptions]) -> int:
        """Takes a request, and everything it needs of the caller's objects; returns its id.

        Raises: What `Runtime.chat` raises of messages, images and options.
        """
        with self._door.computing():
            request = prepare(self._door.engine(), messages, options)
            request_id = next(self._ids)
            self._queue[request_id] = _Queued(request, time.perf_counter())
            return request_id

    def step(self) -> list[Event]:
        """Runs one step, and returns what it gave, in no order; nothing where no request is there.

        A request that fails ends alone, unless the backend's library fails on new tokens: that ends all that run.

        Raises:
            RuntimeClosed: This process was forked from the one that loaded the runtime.
        """
        with self._door.computing():
            return [*self._cancelled(), *self._decode(), *self._admit()]

    def finish(self) -> dict[int, Answer | AllRounderError]:
        """Steps until no request is left; returns by id the answers, or errors, of those that ended meanwhile.

        Raises:
            RuntimeClosed: See `step`.
        """
        ended: dict[int, Answer | AllRounderError] = {}
        with self._door.computing():
            while self.pending:
                ended |= {event.id: event.end for event in self.step() if event.end is not None}
        return ended

    def _cancelled(self) -> Iterator[Event]:
        """Ends what is cancelled, waiting or running."""
        for request_id, queued in list(self._queue.items()):
            if error := self._why(queued.request):
                del self._queue[request_id]
                yield Event(request_id, error=error)
        for index, slot in self._backwards():
            if error := self._why(slot.running.request):
                self._leave(index)
                yield Event(slot.id, error=error)

    def _decode(self) -> list[Event]:
        """Draws a token for each request that runs."""
        if not self._running:
            return []
        requests = [slot.running for slot in self._running]
        try:
            with _timed(requests, "decode"):
                logits = requests[0].state.cache.advance([each.token_ids[-1:] for each in requests])
        except AllRounderError as error:
            events = [Event(slot.id, error=error) for slot in self._running]
            for index, _ in self._backwards():
                self._leave(index)
            return events
        return [event for index, _ in self._backwards() for event in self._take(index, logits[index, -1])]

    def _admit(self) -> list[Event]:
        """Runs the prompt of the longest waiting request into a free slot, and draws its first token."""
        if not self._queue or len(self._running) == self.slots:
            return []
        request_id = min(self._queue)  # one call, as `add` may come in between two
        request, since = self._queue[request_id]
        request.watch.add("queue", since)
        try:
            with _timed([slot.running for slot in self._running], "prompts of others"):
                running = start(self._engine, request, self._door.check, self._pool)
        except AllRounderError as error:
            del self._queue[request_id]
            return [Event(request_id, error=error)]
        del self._queue[request_id]
        self._running.append(_Slot(request_id, running))
        return self._take(len(self._running) - 1, running.state.logits[0])

    def _take(self, index: int, logits: np.ndarray) -> list[Event]:
        """Gives a request its logits; where that ends it, the last one gets its slot."""
        slot = self._running[index]
        try:
            piece = slot.running.take(logits)
        except AllRounderError as error:
            self._leave(index)
            return [Event(slot.id, error=error)]
        if slot.running.finish:
            self._leave(index)
            return [Event(slot.id, piece, slot.running.answer())]
        return [Event(slot.id, piece)] if piece else []

    def _leave(self, index: int) -> None:
        self._running[index].running.state.cache.remove(index)
        last = self._running.pop()
        if index < len(self._running):
            self._running[index] = last

    def _backwards(self) -> list[tuple[int, _Slot]]:
        """Returns what runs from the last slot on, so that whoever leaves moves none that is still to come."""
        return list(enumerate(self._running))[::-1]

    def _why(self, request: Request) -> RequestCancelled | None:
        try:
            self._door.check(request.cancel)
        except RequestCancelled as error:
            return error
        return None


@contextmanager
def _timed(requests: Sequence[Running], name: str) -> Iterator[None]:
    """Times what is done within as a phase of all these requests."""
    with ExitStack() as phases:
        for running in requests:
            phases.enter_context(running.request.watch.phase(name))
        yield
