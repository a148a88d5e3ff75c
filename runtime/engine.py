"""One entry of a bundle, opened: the five graphs and the tokenizer, as functions of their inputs.

It is stateless: requests may run at once. Sampling, stopping and time are `Runtime`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.process import calling, own
from allrounder.engines.sessions import Session, Tensor, backend, check_precision
from allrounder.errors import BackendError, BundleCorrupt, EngineUnavailable, InputInvalid, PromptTooLong
from allrounder.fingerprint import Machine
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.manifest import Entry
from allrounder.runtime.cache import Cache, Clocks
from allrounder.runtime.prompt import Prompter, PromptIds
from allrounder.runtime.stopwatch import Phase
from allrounder.tensors import (
    FREE_SLOTS,
    IMAGE,
    IMAGE_EMBEDS,
    KEEP,
    LAYER_MASK,
    LAYER_SCORES,
    LOGITS,
    PIXEL_VALUES,
    PREFIX_IDS,
    SUFFIX_IDS,
    SUFFIX_LENGTHS,
    TOKEN_SCORES,
)

__all__ = ["Engine", "EngineOptions", "Prefilled", "Scores", "open_engines"]


class Scores(NamedTuple):
    """The router's ``token_scores`` [1, N] and ``layer_scores`` [1, M], float32."""

    token_scores: np.ndarray
    layer_scores: np.ndarray


class Prefilled(NamedTuple):
    """A request after its prompt: ``logits`` [1, V] float32 of its last token, the decision, and the KV pool."""

    logits: np.ndarray
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    cache: Cache


class _Sessions(NamedTuple):
    preprocess: Session
    vision: Session
    router: Session | None
    prefill: Session
    decode: Session


class Engine:
    """One entry of a bundle, opened; made by `Engine.open` or `open_engines`.

    Belongs to the process that opened it: in one that was forked from it every call raises `RuntimeClosed`.
    """

    def __init__(
        self, bundle: OpenBundle, entry: Entry, options: EngineOptions, sessions: _Sessions, prompter: Prompter
    ) -> None:
        self.bundle, self.entry, self.options = bundle, entry, options
        self.model, self.limits = bundle.manifest.model, bundle.manifest.limits
        self._sessions, self._prompter, self._process = sessions, prompter, os.getpid()

    @classmethod
    def open(cls, bundle: OpenBundle, entry: Entry, options: EngineOptions | None = None) -> Engine:
        """Opens one entry of a verified bundle.

        Raises:
            EngineUnavailable: Its backend, or the device, is not there.
            BackendError: The backend's library refuses a graph.
            BundleCorrupt: The tokenizer cannot be read, or gives other ids than when the bundle was built.
        """
        return open_engines(bundle, [entry], options)[0]

    @property
    def machine(self) -> Machine:
        """This machine as far as this engine's latency depends on it."""
        return backend(self.entry.backend).fingerprint(self.options)

    @property
    def routes(self) -> bool:
        """Whether prefill needs the router's scores."""
        return not {TOKEN_SCORES, LAYER_SCORES}.isdisjoint(self._sessions.prefill.inputs)

    def preprocess(self, rgb: np.ndarray) -> Tensor:
        """Returns ``pixel_values`` [1, 3, size, size] float32 of ``rgb`` uint8 [height, width, 3]."""
        return _output(self._sessions.preprocess.run({IMAGE: rgb}), PIXEL_VALUES)

    def embed_pixels(self, pixel_values: Tensor | np.ndarray) -> Tensor:
        """Returns ``image_embeds`` [1, N, H] in engine precision."""
        shape = [1, self.model.image_tokens, None]
        return _output(self._sessions.vision.run({PIXEL_VALUES: pixel_values}), IMAGE_EMBEDS, shape)

    def embed_image(self, rgb: np.ndarray) -> Tensor:
        """Returns ``image_embeds`` [1, N, H] of ``rgb`` uint8 [height, width, 3]; see `to_rgb`."""
        return self.embed_pixels(self.preprocess(rgb))

    def prompt(self, question: str) -> PromptIds:
        """Returns the token ids around the image.

        Raises:
            InputInvalid: The question is no text, or empty.
            PromptTooLong: It has more tokens than the bundle's limit.
        """
        with calling(self._process, self.entry.label):
            prompt = self._prompter.ids(question)
        count, limit = len(prompt.prefix_ids) + len(prompt.suffix_ids), self.limits.text_tokens
        if count > limit:
            raise PromptTooLong(
                "the prompt is too long",
                where="question",
                got=f"{count} text tokens, the template's included",
                wanted=f"up to {limit}",
                remedy="shorten the question, or build the bundle with a higher limit",
            )
        return prompt

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens."""
        with calling(self._process, self.entry.label):
            return self._prompter.decode(ids)

    def route(self, prompt: PromptIds, image_embeds: Tensor) -> Scores | None:
        """Returns the router's scores, or None where this entry needs none (`full`)."""
        router = self._sessions.router
        if router is None or not self.routes:
            return None
        feeds = {**_feeds(prompt), IMAGE_EMBEDS: image_embeds}
        outputs = router.run(_wanted(router, feeds))
        return Scores(
            _output(outputs, TOKEN_SCORES, [1, self.model.image_tokens]).numpy().copy(),
            _output(outputs, LAYER_SCORES, [1, self.model.layers]).numpy().copy(),
        )

    def prefill(self, prompt: PromptIds, image_embeds: Tensor, scores: Scores | None, *, free_slots: int) -> Prefilled:
        """Runs the prompt.

        ``free_slots``: how many further tokens `decode` may be given, 0 to the bundle's limit.

        Raises:
            InputInvalid: Scores are missing where the entry needs them, or an impossible ``free_slots``.
            BackendError: The backend's library failed.
        """
        if not 0 <= free_slots <= self.limits.new_tokens:
            raise InputInvalid(
                "impossible number of free slots",
                where="free_slots",
                got=free_slots,
                wanted=f"0 to {self.limits.new_tokens}",
            )
        if scores is None and self.routes:
            raise InputInvalid("this entry needs the router's scores", where=self.entry.label, remedy="call route")
        feeds = {**_feeds(prompt), IMAGE_EMBEDS: image_embeds, FREE_SLOTS: np.array([free_slots], np.int64)}
        if scores is not None:
            feeds |= {TOKEN_SCORES: scores.token_scores, LAYER_SCORES: scores.layer_scores}
        graph = self._sessions.prefill
        outputs = graph.run(_wanted(graph, feeds))
        text = len(prompt.prefix_ids) + len(prompt.suffix_ids)
        clocks = Clocks(text + self.model.image_tokens, text + self.entry.pruning.keep, free_slots)
        held = {name: tensor for name, tensor in outputs.items() if name.startswith("cache_") or name == LAYER_MASK}
        return Prefilled(
            _output(outputs, LOGITS, [1, self.model.vocabulary]).numpy().copy(),
            self._keep_indices(outputs),
            self._kept_layers(outputs),
            Cache(self._sessions.decode, held, clocks, self.model.vocabulary),
        )

    def start(
        self, pixel_values: Tensor | np.ndarray, prompt: PromptIds, *, free_slots: int, phase: Phase = nullcontext
    ) -> Prefilled:
        """Runs a request up to its first logits: the phases ``vision``, ``router`` and ``prefill``.

        ``phase`` is opened around each phase with its name: a stopwatch, or what may end the request.

        Raises:
            InputInvalid, BackendError: See `prefill`; or whatever ``phase`` raises.
        """
        with phase("vision"):
            image_embeds = self.embed_pixels(pixel_values)
        with phase("router"):
            scores = self.route(prompt, image_embeds)
        with phase("prefill"):
            return self.prefill(prompt, image_embeds, scores, free_slots=free_slots)

    def decode(self, state: Prefilled, ids: Sequence[int]) -> np.ndarray:
        """Puts ``ids`` behind the sequence; returns their ``logits`` [1, S, V] float32. One thread per state.

        Raises:
            InputInvalid: No token, or more of them than there are free slots.
            BackendError: The backend's library failed.
        """
        return state.cache.advance(ids)

    def _keep_indices(self, outputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        if KEEP not in outputs and self.entry.pruning.keep == self.model.image_tokens:
            return tuple(range(self.model.image_tokens))
        return tuple(_output(outputs, KEEP, [1, self.entry.pruning.keep]).numpy()[0].tolist())

    def _kept_layers(self, outputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        if LAYER_MASK not in outputs and self.entry.pruning.kept_layers is not None:
            return self.entry.pruning.kept_layers
        mask = _output(outputs, LAYER_MASK, [self.model.layers])
        return tuple(np.flatnonzero(mask.numpy()).tolist())


def open_engines(
    bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions | None = None
) -> tuple[Engine, ...]:
    """Opens several entries of a verified bundle; graphs that they share are loaded once.

    Raises:
        EngineUnavailable: A backend, or the device, is not there.
        BackendError: A backend's library refuses a graph.
        BundleCorrupt: The tokenizer cannot be read, or gives other ids than when the bundle was built.
    """
    options = options or EngineOptions()
    # Images are prepared on the CPU on every device: its pixels are those that the graph was verified with.
    for_images = EngineOptions(threads=options.threads, weights=options.weights)
    loaded: dict[tuple[str, str, bool], Session] = {}

    def session(entry: Entry, graph: str) -> Session:
        # The op is in prefill graphs alone; the others stay shared between entries with it and without.
        native_op = entry.native_op and graph == entry.graphs.prefill
        key = (entry.backend, graph, native_op)
        if key not in loaded:
            chosen = for_images if graph == entry.graphs.preprocess else options
            path, open_session = bundle.path / graph, backend(entry.backend).open_session
            loaded[key] = own(lambda: open_session(path, chosen, native_op=native_op), path)
        return loaded[key]

    for entry in entries:
        check_precision(entry, options)
    prompter = _prompter(bundle)
    engines = []
    for entry in entries:
        _check_provider(entry, options)
        graphs = entry.graphs
        sessions = _Sessions(
            session(entry, graphs.preprocess),
            session(entry, graphs.vision),
            session(entry, graphs.router) if graphs.router else None,
            session(entry, graphs.prefill),
            session(entry, graphs.decode),
        )
        engines.append(Engine(bundle, entry, options, sessions, prompter))
    return tuple(engines)


def _check_provider(entry: Entry, options: EngineOptions) -> None:
    if entry.backend == "onnxruntime" and options.provider == "tensorrt" and entry.pruning.layer_policy == "dynamic":
        raise EngineUnavailable(
            "ONNX Runtime's TensorRT provider is for static layers alone",  # an If saves no time in TensorRT
            where=entry.label,
            remedy="build it with --layer-policy static, or choose provider='cuda'",
        )


def _prompter(bundle: OpenBundle) -> Prompter:
    path = bundle.path / TOKENIZER
    try:
        prompter = Prompter(path.read_text(encoding="utf-8"), bundle.manifest.prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt("the tokenizer cannot be read", where=path, got=error) from error
    prompter.check(bundle.path / GOLDEN)
    return prompter


def _feeds(prompt: PromptIds) -> dict[str, np.ndarray | Tensor]:
    return {
        PREFIX_IDS: np.asarray([prompt.prefix_ids], np.int64),
        SUFFIX_IDS: np.asarray([prompt.suffix_ids], np.int64),
        SUFFIX_LENGTHS: np.asarray([len(prompt.suffix_ids)], np.int64),
    }


def _wanted(graph: Session, feeds: Mapping[str, np.ndarray | Tensor]) -> dict[str, np.ndarray | Tensor]:
    """Returns those of ``feeds`` that a graph takes."""
    if unknown := [name for name in graph.inputs if name not in feeds]:
        raise BackendError("a graph wants inputs that this runtime does not know", got=", ".join(unknown))
    return {name: feeds[name] for name in graph.inputs}


def _output(outputs: Mapping[str, Tensor], name: str, shape: Sequence[int | None] | None = None) -> Tensor:
    """Returns an output, after checking it: what a manifest says of a graph is no proof. None is any extent."""
    tensor = outputs.get(name)
    got = [] if tensor is None else tensor.shape()
    fits = shape is None or (len(got) == len(shape) and all(w in (None, g) for g, w in zip(got, shape, strict=True)))
    if tensor is None or not fits:
        raise BackendError("a graph does not give what it should", where=name, got=got, wanted=shape)
    return tensor
