"""The life of one request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Required, TypedDict

import numpy as np

from allrounder.chat.messages import Messages, read_messages
from allrounder.errors import InputInvalid, PromptTooLong
from allrounder.images.pixels import PreparedImages
from allrounder.layout import PromptLayout
from allrounder.pruning import requested_keep
from allrounder.runtime.answer import Answer, Finish, Stopwatch, Timing, Usage
from allrounder.runtime.cache import Pool
from allrounder.runtime.door import Cancellation
from allrounder.runtime.engine import Engine, Prefilled
from allrounder.runtime.image import to_rgb
from allrounder.runtime.sampling import Sampling, picker
from allrounder.runtime.text import Detokeniser, StopTexts
from allrounder.versions import Keep

__all__ = ["BatchRequest", "Check", "Request", "RequestOptions", "Running", "answer", "prepare", "start"]

Check = Callable[[Cancellation], None]

_NEW_TOKENS = 128  # each step's time grows with the slots that are set aside, so the limit is no good default


class RequestOptions(TypedDict, total=False):
    """What a request may say beyond its messages.

    ``max_new_tokens`` (default: 128, or the bundle's limit where that is lower) counts the stop token; ``temperature``,
    ``top_k``, ``top_p`` and ``seed`` are those of `Sampling` (default: greedy); ``stop`` are texts that end the answer
    and are not part of it; ``cancel`` lets another thread end the request; ``keep`` is how much of each image stays: a
    share between 0 and 1, a count of image tokens from 2 on, or 1 for all (default: as the entry's version says).
    """

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: Sequence[str]
    cancel: Cancellation | None
    keep: float | None


class BatchRequest(RequestOptions, total=False):
    """A request of a batch: its messages, and what else it may say."""

    messages: Required[Messages]


class Request(NamedTuple):
    """A checked request; nothing of it is the caller's any more but ``cancel``."""

    images: PreparedImages
    watch: Stopwatch  # has timed the images
    layout: PromptLayout
    keep: Keep | None
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    cancel: Cancellation


def prepare(engine: Engine, messages: Messages, options: RequestOptions) -> Request:
    """Checks a request, and takes what it needs of the caller's objects: they may change before it runs.

    Raises:
        InputInvalid: An unknown option or an impossible value, or messages that are none.
        PromptTooLong: Messages or ``max_new_tokens`` exceed the bundle's limits or the model's longest sequence.
        ImageInvalid: An image is none, or too narrow for this model.
    """
    unknown = options.keys() - RequestOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(RequestOptions.__annotations__)
        raise InputInvalid("unknown request options", got=", ".join(sorted(unknown)), wanted=known)
    stop = StopTexts(options.get("stop", ())).texts
    cancel = options.get("cancel") or Cancellation()
    if not isinstance(cancel, Cancellation):
        raise InputInvalid("not a Cancellation", where="cancel", got=type(cancel).__name__)
    keep = None if options.get("keep") is None else requested_keep(options.get("keep"))
    conversation = read_messages(messages)
    ids, watch = engine.ids(conversation.messages), Stopwatch()
    with watch.phase("preprocess"):
        images = engine.prepare([to_rgb(image) for image in conversation.images])
    layout = engine.layout_of(ids, images.planned)
    max_new_tokens = _new_tokens(options.get("max_new_tokens"), engine, layout)
    sampling = Sampling(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        seed=options.get("seed"),
    )
    return Request(images, watch, layout, keep, max_new_tokens, sampling, stop, cancel)


class Running:
    """A request that has its prompt's logits: it draws tokens, makes text of them, stops, and gives the answer.

    Attributes:
        state: From `Engine.start`.
        token_ids: What was drawn.
        finish: Why it has ended, once it has.
    """

    def __init__(self, engine: Engine, request: Request, state: Prefilled) -> None:
        self.request, self.state = request, state
        self.token_ids: list[int] = []
        self.finish: Finish | None = None
        self._stop_ids = engine.model.stop_ids
        self._pick, self._text, self._stops = (
            picker(request.sampling),
            Detokeniser(engine.text),
            StopTexts(request.stop),
        )
        self._pieces: list[str] = []
        self._ttft_ms = 0.0

    def take(self, logits: np.ndarray) -> str:
        """Draws a token from ``logits`` [V] and returns the text that is certain now; all of it where the answer ends.

        Raises:
            BackendError: The logits are not numbers.
        """
        watch, stops = self.request.watch, self._stops
        with watch.phase("decode" if self.token_ids else "first"):
            token = self._pick(logits)
            self.token_ids.append(token)
            stopped = token in self._stop_ids
            piece = "" if stopped else stops.add(self._text.add(token))
            ended = stopped or stops.reached or len(self.token_ids) == self.request.max_new_tokens
            if ended and not stops.reached:
                piece += stops.add(self._text.finish()) + stops.finish()
        if len(self.token_ids) == 1:
            self._ttft_ms = watch.total
        self._pieces.append(piece)
        if ended:
            self.finish = "stop" if stopped or stops.reached else "length"
        return piece

    def answer(self) -> Answer:
        """Returns the answer of a request that has ended."""
        assert self.finish is not None, "it has not ended"
        layout, ids, keep = self.request.layout, self.token_ids, self.state.keep_indices
        return Answer(
            text="".join(self._pieces),
            token_ids=tuple(ids),
            prompt_ids=layout.text_ids,
            keep_indices=keep,
            kept_layers=self.state.kept_layers,
            usage=Usage(layout.text_tokens, layout.image_tokens, len(keep), len(ids)),
            timing=_timing(self.request.watch, self._ttft_ms, further=len(ids) - 1),
            finish=self.finish,
        )


def start(engine: Engine, request: Request, check: Check, pool: Pool | None = None) -> Running:
    """Runs a request up to its prompt's logits, into ``pool`` or one of its own.

    ``check`` is called before each phase, with what cancels the request; it raises to end it.

    Raises:
        BackendError: The backend's library failed.
    """

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        check(request.cancel)
        with request.watch.phase(name):
            yield

    free_slots = request.max_new_tokens - 1
    state = engine.start(
        request.images, request.layout, keep=request.keep, free_slots=free_slots, pool=pool, phase=phase
    )
    return Running(engine, request, state)


def answer(engine: Engine, request: Request, check: Check) -> Generator[str, None, Answer]:
    """Runs a request alone; yields its text as it comes and returns the answer. See `start`."""
    running = start(engine, request, check)
    logits = running.state.logits[0]
    while True:
        if piece := running.take(logits):
            yield piece
        if running.finish:
            return running.answer()
        check(request.cancel)
        with request.watch.phase("decode"):
            logits = engine.decode(running.state, running.token_ids[-1:])[0, -1]


def _timing(watch: Stopwatch, ttft_ms: float, *, further: int) -> Timing:
    return Timing(
        preprocess_ms=watch.of("preprocess"),
        vision_ms=watch.of("vision"),
        router_ms=watch.of("router"),
        prefill_ms=watch.of("prefill"),
        decode_ms=watch.of("decode"),
        ttft_ms=ttft_ms,
        tpot_ms=(watch.total - ttft_ms) / further if further else None,
    )


def _new_tokens(wanted: int | None, engine: Engine, layout: PromptLayout) -> int:
    limit, left = engine.limits.new_tokens, engine.model.max_positions - layout.next_position
    if wanted is None:
        wanted = min(_NEW_TOKENS, limit, max(left, 1))
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InputInvalid(
            "impossible answer length", where="max_new_tokens", got=repr(wanted), wanted=f"an int, 1 to {limit}"
        )
    if wanted > limit:
        raise PromptTooLong(
            "the answer would be too long",
            where="max_new_tokens",
            got=wanted,
            wanted=f"up to {limit}",
            remedy="ask for fewer tokens, or build another bundle with a higher --max-new-tokens",
        )
    if wanted > left:
        raise PromptTooLong(
            "prompt and answer are longer than the model's longest sequence",
            where="messages",
            got=f"{layout.text_tokens} text + {layout.image_tokens} image + {wanted} new tokens",
            wanted=f"up to {engine.model.max_positions}",
            remedy="send less text or fewer images, or ask for fewer tokens with max_new_tokens",
        )
    return wanted
