"""The C++ runtime for Python programs, over its C interface: for tests, benchmarks, and programs that want it.

What it is: one class, and typed records, with the names of `allrounder.runtime`.
What it knows: how Python values become C ones and back. What it does not know: what the library does; image files.
"""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypedDict, Unpack

from allrounder import errors
from allrounder.chat.messages import question
from allrounder.errors import AllRounderError, InputInvalid
from allrounder.native.c_api import (
    HANDLE,
    LOG,
    PIECE,
    Load,
    Request,
    Timing,
    Usage,
    installed_openvino,
    installed_ort,
    open_library,
)
from allrounder.native.lowering import Prompt, checked_number, lowered_messages, lowered_request, one_of, zero_ended

__all__ = ["LoadOptions", "NativeAnswer", "NativeRuntime", "NativeTiming", "NativeUsage", "RequestOptions"]


class LoadOptions(TypedDict, total=False):
    """As for `allrounder.runtime.Runtime.load`; a target is given by its figures. Left out: the default.

    A target chooses by the latencies that the manifest records for this machine, with fast weights; none is measured.
    """

    version: str
    ttft_ms: float
    tpot_ms: float
    percentile: int
    fallback: Literal["fastest"]
    threads: int
    weights: Literal["fast", "shared"]
    device: str
    provider: Literal["cuda", "tensorrt"]
    ids_only: bool  # no tokenizer is read
    ort_library: str | Path  # default: that of the installed package `onnxruntime`
    openvino_library: str | Path  # default: that of the installed package `openvino`
    log: Callable[[str], None]


class RequestOptions(TypedDict, total=False):
    """As for `allrounder.runtime.Runtime.chat`. Left out: the default."""

    keep: float
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int  # the same one draws the same tokens again, though not those of `allrounder.runtime`
    stop: Sequence[str]
    piece: Callable[[str, int], None]  # called with each piece of text and the count of tokens so far


class NativeTiming(NamedTuple):
    """Milliseconds by phase; ``tpot_ms`` is None where there was one token."""

    preprocess_ms: float
    vision_ms: float
    router_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    tpot_ms: float | None


class NativeUsage(NamedTuple):
    """Numbers of tokens."""

    text_tokens: int
    image_tokens: int
    kept_image_tokens: int
    new_tokens: int


class NativeAnswer(NamedTuple):
    """One answer; the fields are those of `allrounder.runtime.Answer`."""

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    usage: NativeUsage
    timing: NativeTiming
    finish: Literal["stop", "length"]


class NativeRuntime:
    """Answers conversations with one engine of a bundle, computed by the C++ runtime; any number of threads may ask.

    Raises:
        AllRounderError: One of that tree, as `allrounder.runtime` would.
    """

    def __init__(self, path: str | Path, **options: Unpack[LoadOptions]) -> None:
        _check_names(options, LoadOptions.__annotations__)
        self._library = open_library()
        self._handle = c.c_void_p()
        raw = _lowered_load(options)
        self._log = raw.log  # may be called as long as the runtime lives
        self._check(self._library.ar_runtime_load(os.fsencode(path), c.byref(raw), c.byref(self._handle)))
        self.version: str = self._library.ar_runtime_version(self._handle).decode()
        self.entry: bytes = self._library.ar_runtime_entry(self._handle)  # JSON
        self.manifest: bytes = self._library.ar_runtime_manifest(self._handle)  # JSON

    def generate(self, image: Any, text: str, **options: Unpack[RequestOptions]) -> NativeAnswer:
        """Answers a question about an image; the short form of `chat`, with one user turn."""
        (turn,) = question(text)
        turn["content"][0]["image"] = image
        return self.chat([turn], **options)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[RequestOptions]) -> NativeAnswer:
        """Answers a conversation.

        Args:
            messages: As for `allrounder.runtime.Runtime.chat`; an image is whatever gives its bytes as
                [height, width, 3]: a numpy array, or a memoryview cast to this shape. A content that is a text alone
                is given as one part, which some templates write in another way.
            **options: See `RequestOptions`. What `piece` raises ends the request and is raised here.
        """
        return self._asked(Prompt(messages=messages), options)

    def complete(
        self, prompt: str | Sequence[int], images: Sequence[Any] = (), **options: Unpack[RequestOptions]
    ) -> NativeAnswer:
        """Answers a prompt that is rendered already: text with the model's image token once per image, or ids."""
        by_text = isinstance(prompt, str)
        return self._asked(
            Prompt(text=prompt, images=images) if by_text else Prompt(ids=prompt, images=images), options
        )

    def generate_batch(self, requests: Sequence[Mapping[str, Any]]) -> list[NativeAnswer | BaseException]:
        """Answers several conversations, together where the entry's layers are static.

        Args:
            requests: ``{"messages": ..., **options}`` each, as `chat` takes them, up to the bundle's limit.

        Returns:
            Of each request its answer, or the error that ended it alone, in their order.
        """
        lowered = [self._lowered(Prompt(messages=each["messages"]), _without_messages(each)) for each in requests]
        raw = (Request * len(lowered))(*(each for each, _ in lowered))
        answers, failures = (HANDLE * len(lowered))(), (HANDLE * len(lowered))()
        self._check(self._library.ar_generate_batch(self._handle, raw, len(lowered), answers, failures))
        ended = zip(answers, failures, (thrown for _, thrown in lowered), strict=True)
        outcomes = [self._outcome(*each) for each in ended]
        for each in outcomes:
            if isinstance(each, BaseException) and not isinstance(each, Exception):
                raise each  # an interrupt is of them all
        return outcomes

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Returns the ids of a conversation, with one placeholder per image."""
        raw, prompt = lowered_messages(messages), HANDLE()
        self._check(self._library.ar_prompt_encode(self._handle, raw, len(raw), c.byref(prompt)))
        try:
            return _ids(self._library.ar_prompt_ids, prompt)
        finally:
            self._library.ar_prompt_free(prompt)

    def close(self) -> None:
        """Cancels what runs, and ends; later requests raise `RuntimeClosed`. May be called again."""
        self._library.ar_runtime_close(self._handle, 1)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):  # not where the options were refused
            self._library.ar_runtime_free(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lowered(self, prompt: Prompt, options: Mapping[str, Any]) -> tuple[Request, list[BaseException]]:
        """Returns a request for C, and where what its callback raises waits."""
        _check_names(options, RequestOptions.__annotations__)
        raw, thrown = lowered_request(prompt, options), list[BaseException]()
        if "piece" in options:
            raw.piece = PIECE(_carrying(options["piece"], thrown))
        return raw, thrown

    def _asked(self, prompt: Prompt, options: RequestOptions) -> NativeAnswer:
        raw, thrown = self._lowered(prompt, options)
        answer = HANDLE()
        error = self._library.ar_generate(self._handle, c.byref(raw), c.byref(answer))
        found = self._outcome(answer.value, error, thrown)
        if isinstance(found, BaseException):
            raise found
        return found

    def _outcome(
        self, answer: int | None, error: int | None, thrown: Sequence[BaseException]
    ) -> NativeAnswer | BaseException:
        """Takes what a call made of a request; both handles are freed."""
        try:
            self._check(error)
            return self._answer(HANDLE(answer))
        except AllRounderError as failure:
            return thrown[0] if thrown else failure
        finally:
            self._library.ar_answer_free(answer)

    def _check(self, error: int | None) -> None:
        if not error:
            return
        name = self._library.ar_error_name(error).decode()
        message = self._library.ar_error_message(error).decode()
        self._library.ar_error_free(error)
        raise getattr(errors, name, AllRounderError)(message)

    def _answer(self, handle: c.c_void_p) -> NativeAnswer:
        library, size, raw = self._library, c.c_size_t(), Timing(size=c.sizeof(Timing))
        text = c.string_at(library.ar_answer_text(handle, c.byref(size)), size.value).decode()
        library.ar_answer_timing(handle, c.byref(raw))
        tokens = Usage(size=c.sizeof(Usage))
        library.ar_answer_usage(handle, c.byref(tokens))
        phases = (getattr(raw, name) for name in NativeTiming._fields[:-1])
        return NativeAnswer(
            text=text,
            token_ids=_ids(library.ar_answer_token_ids, handle),
            prompt_ids=_ids(library.ar_answer_prompt_ids, handle),
            keep_indices=_ids(library.ar_answer_keep_indices, handle),
            kept_layers=_ids(library.ar_answer_kept_layers, handle),
            usage=NativeUsage(*(getattr(tokens, name) for name in NativeUsage._fields)),
            timing=NativeTiming(*phases, tpot_ms=raw.tpot_ms if raw.tpot_ms >= 0 else None),
            finish="length" if library.ar_answer_finish(handle) else "stop",
        )


def _ids(get: Callable[..., Any], handle: c.c_void_p) -> tuple[int, ...]:
    size = c.c_size_t()
    first = get(handle, c.byref(size))
    return tuple(first[: size.value])


def _lowered_load(options: LoadOptions) -> Load:
    raw = Load(size=c.sizeof(Load))
    raw.version = zero_ended(options.get("version"), "version")
    raw.device = zero_ended(options.get("device"), "device")
    raw.provider = zero_ended(options.get("provider"), "provider")
    for name in ("ttft_ms", "tpot_ms", "percentile", "threads"):
        setattr(raw, name, checked_number(options, name))
    raw.ids_only = options.get("ids_only", False)
    raw.fallback_fastest = one_of(("", "fastest"), options.get("fallback", ""), "fallback")
    raw.weights = one_of(("fast", "shared"), options.get("weights", "fast"), "weights")
    for name, installed in (("ort_library", installed_ort), ("openvino_library", installed_openvino)):
        library = options.get(name) or installed()
        setattr(raw, name, os.fsencode(library) if library else None)
    if "log" in options:
        raw.log = LOG(_decoding(options["log"]))
    return raw


def _carrying(piece: Callable[[str, int], None], thrown: list[BaseException]) -> Callable[..., int]:
    """Returns `piece` as the C interface calls it; what it raises waits in `thrown` until the call has returned."""

    def on_piece(_user: int | None, text: int, size: int, count: int) -> int:
        try:
            piece(c.string_at(text, size).decode(), count)
        except BaseException as error:  # noqa: BLE001  # an interrupt, too, must not cross C
            thrown.append(error)
        return len(thrown)

    return on_piece


def _decoding(log: Callable[[str], None]) -> Callable[..., None]:
    """Returns `log` as the C interface calls it."""

    def on_log(_user: int | None, _level: int, text: bytes) -> None:
        log(text.decode("utf-8", "replace"))

    return on_log


def _without_messages(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "messages"}


def _check_names(options: Mapping[str, object], known: Mapping[str, object]) -> None:
    if unknown := options.keys() - known.keys():
        raise InputInvalid("unknown options", got=", ".join(sorted(unknown)), wanted=", ".join(known))
