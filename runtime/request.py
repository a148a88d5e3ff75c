"""The life of one request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from allrounder.engines.sessions import Tensor
from allrounder.errors import ImageInvalid, InputInvalid, PromptTooLong
from allrounder.runtime.answer import Answer, Finish, Timing
from allrounder.runtime.cancellation import Cancellation
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import to_rgb
from allrounder.runtime.prompt import PromptIds
from allrounder.runtime.sampling import Sampling, picker
from allrounder.runtime.stopwatch import Stopwatch
from allrounder.runtime.text import Detokeniser, StopTexts

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["Request", "RequestOptions", "answer", "prepare"]

_NEW_TOKENS = 128  # each step's time grows with the slots that are set aside, so the limit is no good default


class RequestOptions(TypedDict, total=False):
    """What a request may say beyond image and question.

    ``max_new_tokens`` (default: 128, or the bundle's limit where that is lower) counts the stop token; ``temperature``,
    ``top_k``, ``top_p`` and ``seed`` are those of `Sampling` (default: greedy); ``stop`` are texts that end the answer
    and are not part of it; ``cancel`` lets another thread end the request.
    """

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: Sequence[str]
    cancel: Cancellation | None


class Request(NamedTuple):
    """A checked request; nothing of it is the caller's any more but ``cancel``."""

    pixels: Tensor | ImageInvalid  # its pixel values, or why there are none: which is raised when the request runs
    watch: Stopwatch  # has timed the pixels
    prompt: PromptIds
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    cancel: Cancellation


def prepare(engine: Engine, image: ImageLike, question: str, options: RequestOptions) -> Request:
    """Checks a request, and takes what it needs of the caller's objects: they may change before it runs.

    Raises:
        InputInvalid: An unknown option or an impossible value, a question that is no text or empty.
        PromptTooLong: Question or ``max_new_tokens`` exceed the bundle's limits.
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
    prompt = engine.prompt(question)
    max_new_tokens = _new_tokens(options.get("max_new_tokens"), engine.limits.new_tokens)
    sampling = Sampling(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        seed=options.get("seed"),
    )
    watch = Stopwatch()
    with watch.phase("preprocess"):
        pixels = _preprocessed(engine, image)
    return Request(pixels, watch, prompt, max_new_tokens, sampling, stop, cancel)


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
    state = engine.start(request.pixels, request.prompt, free_slots=request.max_new_tokens - 1, phase=phase)
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
    prompt_ids = (*request.prompt.prefix_ids, *request.prompt.suffix_ids)
    finish: Finish = "stop" if stopped or stops.reached else "length"
    timing = _timing(watch, ttft_ms, further=len(ids) - 1)
    return Answer("".join(pieces), tuple(ids), prompt_ids, state.keep_indices, state.kept_layers, timing, finish)


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


def _preprocessed(engine: Engine, image: ImageLike) -> Tensor | ImageInvalid:
    try:
        return engine.preprocess(to_rgb(image))
    except ImageInvalid as error:
        return error


def _new_tokens(wanted: int | None, limit: int) -> int:
    if wanted is None:
        return min(_NEW_TOKENS, limit)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InputInvalid("impossible answer length", where="max_new_tokens", got=wanted, wanted=f"1 to {limit}")
    if wanted > limit:
        raise PromptTooLong(
            "the answer would be too long",
            where="max_new_tokens",
            got=wanted,
            wanted=f"up to {limit}",
            remedy="ask for fewer tokens, or build the bundle with a higher limit",
        )
    return wanted
