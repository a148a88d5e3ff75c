"""The life of one request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict

from allrounder.chat.messages import Messages, read_messages
from allrounder.engines.sessions import Tensor
from allrounder.errors import ImageInvalid, InputInvalid, PromptTooLong
from allrounder.layout import PromptLayout
from allrounder.pruning import requested_keep
from allrounder.runtime.answer import Answer, Timing, Usage
from allrounder.runtime.cancellation import Cancellation
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import to_rgb
from allrounder.runtime.sampling import Sampling, picker
from allrounder.runtime.stopwatch import Stopwatch
from allrounder.runtime.text import Detokeniser, StopTexts
from allrounder.versions import Keep

__all__ = ["Request", "RequestOptions", "answer", "prepare"]

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


class Request(NamedTuple):
    """A checked request; nothing of it is the caller's any more but ``cancel``."""

    pixels: tuple[Tensor, ...] | ImageInvalid  # of each image, or why there are none: that is raised when it runs
    watch: Stopwatch  # has timed the pixels
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
        BackendError: The backend's library failed on the pixels.
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
    layout = engine.layout(conversation.messages)
    max_new_tokens = _new_tokens(options.get("max_new_tokens"), engine, layout)
    sampling = Sampling(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        seed=options.get("seed"),
    )
    watch = Stopwatch()
    with watch.phase("preprocess"):
        pixels = _preprocessed(engine, conversation.images)
    return Request(pixels, watch, layout, keep, max_new_tokens, sampling, stop, cancel)


def answer(engine: Engine, request: Request, check: Callable[[], None]) -> Generator[str, None, Answer]:
    """Runs a request; yields its text as it comes and returns the answer.

    ``check`` is called before each step; it raises to end the request.

    Raises:
        ImageInvalid: The image is none.
        BackendError: The backend's library failed.
    """
    watch = request.watch

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        check()
        with watch.phase(name):
            yield

    if isinstance(request.pixels, ImageInvalid):
        check()
        raise request.pixels
    free_slots = request.max_new_tokens - 1
    state = engine.start(request.pixels, request.layout, keep=request.keep, free_slots=free_slots, phase=phase)
    pick, decode_text, stops = picker(request.sampling), Detokeniser(engine.text), StopTexts(request.stop)
    ids: list[int] = []
    pieces: list[str] = []
    logits = state.logits[0]
    ttft_ms = 0.0
    while True:
        with watch.phase("decode" if ids else "first"):
            ids.append(pick(logits))
            stopped = ids[-1] in engine.model.stop_ids
            piece = "" if stopped else stops.add(decode_text.add(ids[-1]))
        if len(ids) == 1:
            ttft_ms = watch.total
        if piece:
            pieces.append(piece)
            yield piece
        if stopped or stops.reached or len(ids) == request.max_new_tokens:
            break
        with phase("decode"):
            logits = engine.decode(state, ids[-1:])[0, -1]
    rest = "" if stops.reached else stops.add(decode_text.finish()) + stops.finish()
    if rest:
        pieces.append(rest)
        yield rest
    layout = request.layout
    return Answer(
        text="".join(pieces),
        token_ids=tuple(ids),
        prompt_ids=layout.text_ids,
        keep_indices=state.keep_indices,
        kept_layers=state.kept_layers,
        usage=Usage(layout.text_tokens, layout.image_tokens, len(state.keep_indices), len(ids)),
        timing=_timing(watch, ttft_ms, further=len(ids) - 1),
        finish="stop" if stopped or stops.reached else "length",
    )


def _timing(watch: Stopwatch, ttft_ms: float, *, further: int) -> Timing:
    decode = watch.of("decode")
    return Timing(
        preprocess_ms=watch.of("preprocess"),
        vision_ms=watch.of("vision"),
        router_ms=watch.of("router"),
        prefill_ms=watch.of("prefill"),
        decode_ms=decode,
        ttft_ms=ttft_ms,
        tpot_ms=decode / further if further else None,
    )


def _preprocessed(engine: Engine, images: Sequence[Any]) -> tuple[Tensor, ...] | ImageInvalid:
    try:
        return tuple(engine.preprocess(to_rgb(image)) for image in images)
    except ImageInvalid as error:
        return error


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
