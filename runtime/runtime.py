"""The runtime: one engine, chosen by version or latency target, that answers requests.

Loading, and the door through which requests come and go until it is closed; requests may run at once, from any threads.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from allrounder.chat.messages import Message, Messages, question
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions, EngineOptionsDict
from allrounder.engines.sessions import why_not
from allrounder.errors import AllRounderError, EngineUnavailable, InputInvalid, UnknownVersion
from allrounder.manifest import Entry
from allrounder.progress import Progress, silent
from allrounder.runtime.answer import Answer
from allrounder.runtime.choice import Fallback, LatencyTarget, choose
from allrounder.runtime.door import Door
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import load_decoders
from allrounder.runtime.local_latency import with_local_latency
from allrounder.runtime.request import BatchRequest, RequestOptions, answer, prepare
from allrounder.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["Runtime", "Stream"]

_log = logging.getLogger("allrounder.runtime")


class Runtime:
    """Answers questions about images with one engine of a bundle; made by `Runtime.load`.

    May be used by any number of threads at once, and as a context manager, which closes it. It belongs to the process
    that loaded it: in one forked from that every call raises `RuntimeClosed`, and leaving ``with`` closes nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self.entry, self._door = engine.entry, Door(engine)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        target: LatencyTarget | None = None,
        version: str | None = None,
        fallback: Fallback | None = None,
        progress: Progress = silent,
        **options: Unpack[EngineOptionsDict],
    ) -> Self:
        """Opens a bundle and the entry to be used.

        Args:
            path: The bundle's directory.
            target: Takes the most faithful entry that meets it. Where the bundle's latencies are not of this machine,
                its entries are measured first (up to about 20 s, kept for the next time, logged).
            version: Takes the most faithful entry of that name. Without either: the most faithful of all.
            fallback: ``"fastest"`` takes the entry nearest to the target where none meets it.
            progress: Gets the hashing of a bundle that this user never loaded, and the measuring.
            **options: ``threads``, ``weights``, ``device`` and ``provider`` of `EngineOptions`.

        Raises:
            NoEngineMeetsTarget: None meets the target; the message is the table of what there is.
            UnknownVersion: The bundle has no entry of that name.
            InputInvalid: Arguments that contradict each other, or impossible options.
            EngineUnavailable: The backend or device is not there.
            BundleError: The bundle is missing, damaged or from the future.
        """
        if target is not None and version is not None:
            raise InputInvalid("give a target or a version, not both", got=f"{target}; {version!r}")
        if target is not None and not isinstance(target, LatencyTarget):
            raise InputInvalid("not a LatencyTarget", where="target", got=type(target).__name__)
        if fallback is not None and target is None:
            raise InputInvalid("a fallback needs a target", where="fallback", got=repr(fallback))
        settings = _settings(options)
        bundle = open_bundle(path, progress=progress)
        entries = _candidates(bundle, version, settings)
        if target is not None:
            entries = with_local_latency(bundle, entries, settings, progress=progress)
        entry = choose(entries, target, fallback=fallback)
        _log.info("%s: loading %s", bundle.path, entry.label)
        load_decoders()
        return cls(Engine.open(bundle, entry, settings))

    def generate(self, image: ImageLike, question: str, **options: Unpack[RequestOptions]) -> Answer:
        """Answers a question about an image; the short form of `chat`, with one user turn.

        Args:
            image: A path, a PIL image, or uint8 RGB [height, width, 3].
            question: Plain text; a special token's text in it stays text.
            **options: See `RequestOptions`.

        Raises: What `chat` raises.
        """
        return self.chat(_short(image, question), **options)

    def chat(self, messages: Messages, **options: Unpack[RequestOptions]) -> Answer:
        """Answers a conversation.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": ...}``, the content a text, or a list of
                ``{"type": "text", "text": "..."}`` and ``{"type": "image", "image": ...}`` in any order; an image is
                what `generate` takes. There may be no image.
            **options: See `RequestOptions`: ``max_new_tokens``, sampling, ``stop``, ``cancel``, ``keep``.

        Raises:
            ImageInvalid: An image is none.
            InputInvalid: The messages are none, the model's chat template refuses them, or an impossible option.
            PromptTooLong: Messages or ``max_new_tokens`` exceed the bundle's limits or the model's longest sequence.
            RequestCancelled: By ``cancel``, or by `close`.
            RuntimeClosed: `close` came before, or this process was forked from the one that loaded it.
            BackendError: The backend's library failed.
        """
        with self._door.computing():
            pieces = self._pieces(messages, options)
            while True:
                try:
                    next(pieces)
                except StopIteration as end:
                    return end.value

    def stream(self, image: ImageLike, question: str, **options: Unpack[RequestOptions]) -> Stream:
        """Answers like `generate`, piece by piece; see `stream_chat`."""
        return self.stream_chat(_short(image, question), **options)

    def stream_chat(self, messages: Messages, **options: Unpack[RequestOptions]) -> Stream:
        """Answers like `chat`, piece by piece; arguments and errors as there.

        The images and all options are taken at once: what becomes of them afterwards changes nothing. The request
        runs while the stream is being pulled; dropping or closing the stream ends it. What is wrong with messages,
        images and options is raised at once.
        """
        with self._door.computing():
            return Stream(self._pieces(messages, options), self._door)

    def scheduler(self, slots: int | None = None) -> Scheduler:
        """Returns a scheduler, which answers several requests at once.

        Args:
            slots: How many decode together; default, and at most: the bundle's limit. One of a dynamic layer policy
                chooses layers for each request, and runs them one by one.

        Raises:
            InputInvalid: An impossible number of slots.
            EngineUnavailable: This backend holds one sequence alone where it runs, and ``slots`` is not 1.
            RuntimeClosed: See `chat`.
        """
        with self._door.computing():
            return Scheduler(self._door, slots)

    def generate_batch(self, requests: Sequence[BatchRequest]) -> list[Answer]:
        """Answers several requests together, and returns the answers in their order.

        Args:
            requests: ``{"messages": ..., **options}`` each, as `chat` takes them, up to the bundle's limit.

        Raises:
            InputInvalid: Too many requests, or one is none.
            Exception: What `chat` raises, with a note that names the request. What is wrong with messages, images or
                options is found before anything runs; what fails later is raised once the others have ended. Whoever
                wants their answers all the same uses `scheduler`.
        """
        with self._door.computing():
            limit = self._door.engine().limits.batch
            if len(requests) > limit:
                raise InputInvalid(
                    "more requests than this bundle takes at once",
                    where="requests",
                    got=len(requests),
                    wanted=f"up to {limit}",
                    remedy="give fewer, use scheduler(), or build another bundle with a higher --max-batch",
                )
            scheduler = Scheduler(self._door, max(len(requests), 1))
            ids: list[int] = []
            for index, request in enumerate(requests):
                with _noted(index):
                    ids.append(scheduler.add(**_parts(request)))
            ended = scheduler.finish()
        return [_answered(index, ended[request_id]) for index, request_id in enumerate(ids)]

    def close(self, *, cancel: bool = True) -> None:
        """Closes the runtime and frees its engine; may be called again.

        Args:
            cancel: Requests that run are cancelled before their next step. False lets calls that are running end
                first. Either way `close` returns when nothing is running any more, and streams that nobody is pulling
                just then raise `RequestCancelled` when they are pulled again.

        Raises:
            RuntimeClosed: This process was forked from the one that loaded it.
        """
        if self._door.close(cancel=cancel):
            _log.info("closed %s", self.entry.label)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._door.inherited:
            self.close()

    def _pieces(self, messages: Messages, options: RequestOptions) -> Generator[str, None, Answer]:
        engine = self._door.engine()
        return answer(engine, prepare(engine, messages, options), self._door.check)


class Stream(Iterator[str]):
    """The pieces of an answer; put together they are ``answer.text``. To be pulled by one thread at a time."""

    def __init__(self, pieces: Generator[str, None, Answer], door: Door) -> None:
        self._pieces, self._door = pieces, door
        self.answer: Answer | None = None  # once the last piece is out

    def __next__(self) -> str:
        with self._door.computing():
            try:
                return next(self._pieces)
            except StopIteration as end:
                self.answer = end.value or self.answer
                raise

    def close(self) -> None:
        """Ends the request; nothing more comes.

        Raises:
            RuntimeClosed: This process was forked from the one that made it.
        """
        self._door.check_process()
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._door.inherited:
            self.close()


def _short(image: ImageLike, text: str) -> list[Message]:
    """Returns the messages of the short form."""
    (turn,) = question(text)
    turn["content"][0]["image"] = image
    return [turn]


def _parts(request: BatchRequest) -> BatchRequest:
    if not isinstance(request, Mapping) or "messages" not in request:
        raise InputInvalid("a request of a batch is no such thing", got=repr(request), wanted='{"messages": ...}')
    return request


def _answered(index: int, ended: Answer | AllRounderError) -> Answer:
    with _noted(index):
        if isinstance(ended, AllRounderError):
            raise ended
    return ended


@contextmanager
def _noted(index: int) -> Iterator[None]:
    """Adds to an error which request of a batch it is about."""
    try:
        yield
    except AllRounderError as error:
        error.add_note(f"in request {index} of the batch")
        raise


def _settings(options: EngineOptionsDict) -> EngineOptions:
    unknown = options.keys() - EngineOptionsDict.__annotations__.keys()
    if unknown:
        known = ", ".join(EngineOptionsDict.__annotations__)
        raise InputInvalid("unknown options", got=", ".join(sorted(unknown)), wanted=known)
    return EngineOptions(**options)


def _candidates(bundle: OpenBundle, version: str | None, options: EngineOptions) -> tuple[Entry, ...]:
    """Returns the entries that this runtime can run, of one version where it is given."""
    entries = bundle.manifest.entries
    named = tuple(entry for entry in entries if version in (None, entry.version))
    if not named:
        versions = ", ".join(dict.fromkeys(entry.version for entry in entries))
        raise UnknownVersion(
            f"the bundle has no version {version!r}",
            where=bundle.path,
            wanted=f"one of {versions}",
            remedy="build it into the bundle with `allrounder build --version ...`",
        )
    kinds = {(entry.backend, entry.precision): entry for entry in reversed(named)}
    reasons = {kind: why_not(entry, options) for kind, entry in kinds.items()}
    able = tuple(entry for entry in named if reasons[entry.backend, entry.precision] is None)
    if not able:
        raise EngineUnavailable(
            "this runtime runs none of the bundle's engines",
            where=bundle.path,
            got="; ".join(dict.fromkeys(str(reason) for reason in reasons.values())),
        )
    for entry in (each for each in named if each not in able):
        _log.info(
            "%s: left aside, this runtime cannot run it (%s)", entry.label, reasons[entry.backend, entry.precision]
        )
    return able
