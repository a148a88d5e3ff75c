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
from allrounder.errors import AllRounderError, ImageInvalid, InputInvalid
from allrounder.native.c_api import LOG, PIECE, Load, Request, Timing, installed_ort, open_library

__all__ = ["LoadOptions", "NativeAnswer", "NativeRuntime", "NativeTiming", "RequestOptions"]


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
    log: Callable[[str], None]


class RequestOptions(TypedDict, total=False):
    """As for `allrounder.runtime.Runtime.generate`. Left out: the default."""

    prefix_ids: Sequence[int]  # with `suffix_ids` in place of a question
    suffix_ids: Sequence[int]
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


class NativeAnswer(NamedTuple):
    """One answer; the fields are those of `allrounder.runtime.Answer`."""

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    timing: NativeTiming
    finish: Literal["stop", "length"]


class NativeRuntime:
    """Answers questions with one engine of a bundle, computed by the C++ runtime; any number of threads may ask.

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

    def generate(self, image: Any, question: str | None, **options: Unpack[RequestOptions]) -> NativeAnswer:
        """Answers a question about an image.

        Args:
            image: Whatever gives its bytes as [height, width, 3]: a numpy array, or a memoryview cast to this shape.
            question: Plain text, or None where token ids are given.
            **options: See `RequestOptions`. What `piece` raises ends the request and is raised here.
        """
        _check_names(options, RequestOptions.__annotations__)
        raw = _lowered_request(image, question, options)
        thrown: list[BaseException] = []
        if "piece" in options:
            raw.piece = PIECE(_carrying(options["piece"], thrown))
        answer = c.c_void_p()
        error = self._library.ar_generate(self._handle, c.byref(raw), c.byref(answer))
        if thrown:
            self._library.ar_error_free(error)
            raise thrown[0]
        self._check(error)
        try:
            return self._answer(answer)
        finally:
            self._library.ar_answer_free(answer)

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
        phases = (getattr(raw, name) for name in NativeTiming._fields[:-1])
        return NativeAnswer(
            text=text,
            token_ids=_ids(library.ar_answer_token_ids, handle),
            prompt_ids=_ids(library.ar_answer_prompt_ids, handle),
            keep_indices=_ids(library.ar_answer_keep_indices, handle),
            kept_layers=_ids(library.ar_answer_kept_layers, handle),
            timing=NativeTiming(*phases, tpot_ms=raw.tpot_ms if raw.tpot_ms >= 0 else None),
            finish="length" if library.ar_answer_finish(handle) else "stop",
        )


def _ids(get: Callable[..., Any], handle: c.c_void_p) -> tuple[int, ...]:
    size = c.c_size_t()
    first = get(handle, c.byref(size))
    return tuple(first[: size.value])


def _lowered_load(options: LoadOptions) -> Load:
    raw = Load(size=c.sizeof(Load))
    raw.version = _text(options.get("version"), "version")
    raw.device = _text(options.get("device"), "device")
    raw.provider = _text(options.get("provider"), "provider")
    for name in ("ttft_ms", "tpot_ms", "percentile", "threads"):
        setattr(raw, name, _number(options, name))
    raw.ids_only = options.get("ids_only", False)
    raw.fallback_fastest = _one_of(("", "fastest"), options.get("fallback", ""), "fallback")
    raw.weights = _one_of(("fast", "shared"), options.get("weights", "fast"), "weights")
    ort_library = options.get("ort_library") or installed_ort()
    raw.ort_library = os.fsencode(ort_library) if ort_library else None
    if "log" in options:
        raw.log = LOG(_decoding(options["log"]))
    return raw


def _lowered_request(image: Any, question: str | None, options: RequestOptions) -> Request:
    view = memoryview(image)
    shape = view.shape or ()
    if view.format != "B" or len(shape) != 3 or shape[2] != 3:
        got = f"{view.format} {list(shape)}"
        raise ImageInvalid("not RGB pixels", where="image", got=got, wanted="bytes of [height, width, 3]")
    raw = Request(size=c.sizeof(Request), rgb=view.tobytes(), height=shape[0], width=shape[1])
    if question is not None:
        text = question.encode()
        raw.question, raw.question_bytes = text, len(text)
    for name in ("prefix", "suffix"):
        ids = options.get(f"{name}_ids", ())
        setattr(raw, f"{name}_ids", (c.c_int64 * len(ids))(*ids))
        setattr(raw, f"{name}_count", len(ids))
    for name in ("max_new_tokens", "top_p"):
        setattr(raw, name, _number(options, name))
    for name in ("temperature", "top_k", "seed"):
        setattr(raw, name, options.get(name, 0))
    raw.seeded = "seed" in options
    stop = [_text(each, "stop") for each in options.get("stop", ())]
    raw.stop, raw.stop_count = (c.c_char_p * len(stop))(*stop), len(stop)
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


def _text(value: str | None, where: str) -> bytes | None:
    if value is not None and "\0" in value:
        raise InputInvalid("the text holds a zero byte", where=where, got=repr(value))
    return None if value is None else value.encode()


def _number(options: Mapping[str, object], name: str) -> object:
    """Returns an option whose zero, in the C interface, would quietly mean the default."""
    if options.get(name, 1) == 0:
        raise InputInvalid("zero is no value", where=name, remedy="leave it out for the default")
    return options.get(name, 0)


def _one_of(names: Sequence[str], value: str, where: str) -> int:
    """Returns the number by which the C interface knows a name."""
    if value not in names:
        wanted = " or ".join(repr(name) for name in names if name)
        raise InputInvalid("unknown value", where=where, got=repr(value), wanted=wanted)
    return names.index(value)


def _check_names(options: Mapping[str, object], known: Mapping[str, object]) -> None:
    if unknown := options.keys() - known.keys():
        raise InputInvalid("unknown options", got=", ".join(sorted(unknown)), wanted=", ".join(known))
