"""One entry of a bundle, opened: its graphs and the tokenizer, as functions of their inputs.

It is stateless: requests may run at once. Sampling, stopping and time are `Runtime`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.process import calling, own
from allrounder.engines.sessions import Session, Tensor, backend, check_precision
from allrounder.errors import BackendError, BundleCorrupt, EngineUnavailable, InputInvalid, PromptTooLong
from allrounder.fingerprint import Machine
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.images.pixels import PreparedImages, prepare_images, token_sources
from allrounder.images.plan import Canvases, ImagePlan
from allrounder.images.planning import PlannedImage, plan_images
from allrounder.layout import PromptLayout, keep_counts
from allrounder.manifest import Entry
from allrounder.runtime.answer import Phase
from allrounder.runtime.cache import Clocks, Pool, layer_mask
from allrounder.runtime.image import embed_in_pieces
from allrounder.runtime.prompt import Prompter
from allrounder.tensors import (
    IMAGE_EMBEDS,
    IMAGE_INDEX,
    IMAGE_OF,
    INPUT_IDS,
    KEEP_COUNTS,
    KEEP_INDICES,
    LAYER_SCORES,
    LOGITS,
    LOGITS_TO_KEEP,
    POSITION_IDS,
    TILES,
    TOKEN_ROWS,
    TOKEN_SCORES,
    TOKEN_WEIGHTS,
)
from allrounder.versions import EVERYTHING, Keep

if TYPE_CHECKING:
    from allrounder.chat.messages import Messages

__all__ = ["Engine", "EngineOptions", "Prefilled", "Scores", "layout_feeds", "open_engines", "vision_feeds"]


class Scores(NamedTuple):
    """What the router gives: ``token_scores`` [N] and ``layer_scores`` [M], float32."""

    token_scores: np.ndarray
    layer_scores: np.ndarray


class Prefilled(NamedTuple):
    """A request after its prompt: ``logits`` [1, V] float32 of its last token, the decision, and its KV pool."""

    logits: np.ndarray
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    cache: Pool


class _Sessions(NamedTuple):
    vision: Session
    router: Session | None
    decoder: Session


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

    def prepare(self, images: Sequence[np.ndarray]) -> PreparedImages:
        """Returns a prompt's images, uint8 RGB [height, width, 3] each (see `to_rgb`), as the vision graph takes them.

        Raises:
            ImageInvalid: An image is too narrow for this model.
        """
        return prepare_images(self.model.images, images)

    def embed(self, images: PreparedImages) -> Tensor:
        """Returns ``image_embeds`` [N, H] in engine precision, of a prompt's images one after another."""
        if not images.planned:
            return self._sessions.decoder.zeros(IMAGE_EMBEDS, (0, None))
        vision, plan = self._sessions.vision, self.model.images
        most = max(1, (self._most_rows or len(images.tiles) * plan.tokens) // plan.tokens)  # tiles
        if len(images.tiles) > most:
            return self._sessions.decoder.cell(embed_in_pieces(vision, plan, images, most)).tensor
        outputs = vision.run(_wanted(vision, vision_feeds(plan, images)))
        return _output(outputs, IMAGE_EMBEDS, [sum(each.tokens for each in images.planned), None])

    def embed_image(self, rgb: np.ndarray) -> Tensor:
        """Returns ``image_embeds`` [N, H] of ``rgb`` uint8 [height, width, 3]; see `to_rgb`."""
        return self.embed(self.prepare([rgb]))

    def ids(self, messages: Messages) -> tuple[int, ...]:
        """Returns the ids of a conversation's prompt, with one placeholder per image; its images are not looked at.

        Raises:
            InputInvalid: The messages are none, or the model's template refuses them.
            PromptTooLong: More images than the bundle's limit.
        """
        with calling(self._process, self.entry.label):
            ids = self._prompter.ids(messages)
        _check_limit(ids.count(self.model.image_token_id), "images", self.limits.images, "--max-images")
        return ids

    def layout(self, messages: Messages) -> PromptLayout:
        """Returns `layout_of` a conversation whose images have one tile's size."""
        ids, plan = self.ids(messages), self.model.images
        return self.layout_of(ids, plan_images(plan, [(plan.size, plan.size)] * ids.count(self.model.image_token_id)))

    def layout_of(self, ids: Sequence[int], images: Sequence[PlannedImage]) -> PromptLayout:
        """Returns the layout of a prompt.

        Args:
            ids: From `ids`.
            images: What its images become, as `prepare` says.

        Raises:
            InputInvalid: There is another number of images than placeholders.
            PromptTooLong: More image or text tokens than the bundle's limits.
        """
        # Before there are any rows: what a manifest says may be vast.
        _check_limit(sum(each.tokens for each in images), "image tokens", self.limits.image_tokens, "--max-images")
        layout, text = self._prompter.layout(ids, images), "text tokens, the template's included"
        _check_limit(layout.text_tokens, text, self.limits.text_tokens, "--max-text-tokens")
        return layout

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens."""
        with calling(self._process, self.entry.label):
            return self._prompter.decode(ids)

    def route(self, layout: PromptLayout, image_embeds: Tensor | np.ndarray) -> Scores | None:
        """Returns the router's scores, or None where this prompt needs none."""
        router = self._sessions.router
        if router is None or not self._wants_scores(layout):
            return None
        outputs = router.run(_wanted(router, {**layout_feeds(layout), IMAGE_EMBEDS: image_embeds}))
        return Scores(
            _output(outputs, TOKEN_SCORES, [layout.image_tokens]).numpy().copy(),
            _output(outputs, LAYER_SCORES, [self.model.layers]).numpy().copy(),
        )

    def prefill(
        self,
        layout: PromptLayout,
        image_embeds: Tensor | np.ndarray,
        scores: Scores | None,
        *,
        keep: Keep | None = None,
        free_slots: int,
        pool: Pool | None = None,
    ) -> Prefilled:
        """Runs the prompt.

        Args:
            layout: From `layout`.
            image_embeds: From `embed`.
            scores: From `route`.
            keep: How many tokens of each image stay; default: as the entry's version says.
            free_slots: How many further tokens `decode` may be given, 0 to the bundle's limit.
            pool: From `pool`; default: one of its own.

        Raises:
            InputInvalid: Scores are missing where the prompt needs them, an impossible ``free_slots``, a ``keep``
                that this entry cannot follow, or a pool that is full.
            PromptTooLong: Prompt and free slots exceed the model's longest sequence.
            BackendError: The backend's library failed.
        """
        self._check(layout, scores, keep, free_slots)
        pruning = self.entry.pruning
        counts = keep_counts(layout, pruning.keep_rule if keep is None else keep)
        dropped = layout.image_tokens - sum(counts)
        mask = None
        if pruning.layer_policy == "dynamic" and scores is not None:
            mask = layer_mask(scores.layer_scores, pruning.layers, pruning.prune_layer)
        if pool is None:
            pool = Pool(self._sessions.decoder, pruning, 1, self.model.vocabulary, mask)
        feeds = {
            **layout_feeds(layout),
            IMAGE_EMBEDS: image_embeds,
            TOKEN_SCORES: np.zeros(0, np.float32) if scores is None else scores.token_scores,
            KEEP_COUNTS: np.array(counts, np.int64),
            LOGITS_TO_KEEP: np.ones(1, np.int64),
        }
        clocks = Clocks(layout.next_position, layout.rows, layout.rows - dropped, free_slots)
        outputs = pool.prefill(feeds, clocks, self._most_rows)
        logits = _output(outputs, LOGITS, [1, 1, self.model.vocabulary]).numpy()[:, 0].copy()
        keep_indices = tuple(range(layout.image_tokens))
        if pruning.prunes:
            keep_indices = tuple(_output(outputs, KEEP_INDICES, [sum(counts)]).numpy().tolist())
        return Prefilled(logits, keep_indices, self._kept_layers(mask), pool)

    def start(
        self,
        images: PreparedImages,
        layout: PromptLayout,
        *,
        keep: Keep | None = None,
        free_slots: int,
        pool: Pool | None = None,
        phase: Phase = nullcontext,
    ) -> Prefilled:
        """Runs a request up to its first logits: the phases ``vision``, ``router`` and ``prefill``.

        Args:
            images: From `prepare`.
            layout: From `layout`.
            keep: As of `prefill`.
            free_slots: As of `prefill`.
            pool: As of `prefill`.
            phase: Opened around each phase with its name: a stopwatch, or what may end the request.

        Raises:
            InputInvalid, PromptTooLong, BackendError: See `prefill`; or whatever ``phase`` raises.
        """
        with phase("vision"):
            image_embeds = self.embed(images)
        with phase("router"):
            scores = self.route(layout, image_embeds)
        with phase("prefill"):
            return self.prefill(layout, image_embeds, scores, keep=keep, free_slots=free_slots, pool=pool)

    def pool(self, sequences: int) -> Pool:
        """Returns an empty KV pool for requests that decode together, under a static layer policy.

        Raises:
            EngineUnavailable: The backend holds one sequence alone where it runs.
        """
        return Pool(self._sessions.decoder, self.entry.pruning, sequences, self.model.vocabulary)

    def decode(self, state: Prefilled, ids: Sequence[int]) -> np.ndarray:
        """Puts ``ids`` behind the only sequence of a pool; returns their ``logits`` [1, S, V] float32.

        One thread per state.

        Raises:
            InputInvalid: No token, or more of them than there are free slots.
            BackendError: The backend's library failed.
        """
        return state.cache.advance([ids])

    def _check(self, layout: PromptLayout, scores: Scores | None, keep: Keep | None, free_slots: int) -> None:
        pruning, label = self.entry.pruning, self.entry.label
        if not 0 <= free_slots <= self.limits.new_tokens:
            wanted = f"0 to {self.limits.new_tokens}"
            raise InputInvalid("impossible number of free slots", where="free_slots", got=free_slots, wanted=wanted)
        if layout.next_position + free_slots > self.model.max_positions:
            raise PromptTooLong(
                "prompt and answer are longer than the model's longest sequence",
                where="messages",
                got=f"{layout.text_tokens} text + {layout.image_tokens} image + {free_slots} new tokens",
                wanted=f"up to {self.model.max_positions}",
                remedy="send less, or ask for fewer tokens with max_new_tokens",
            )
        if keep not in (None, EVERYTHING) and not pruning.prunes:
            raise InputInvalid(
                "this entry keeps every image token",
                where="keep",
                got=keep,
                wanted="1",
                remedy=f"load another version than {label}",
            )
        if scores is None and self._wants_scores(layout):
            raise InputInvalid("this entry needs the router's scores", where=label, remedy="call route")

    @property
    def _most_rows(self) -> int | None:
        """How many rows vision graph and decoder take at once; None: as many as there are."""
        return self.options.prefill_rows if self.options.device_kind == "cpu" else None

    def _wants_scores(self, layout: PromptLayout) -> bool:
        """Whether layers are chosen for this prompt, or image tokens dropped from it."""
        pruning = self.entry.pruning
        return pruning.layer_policy == "dynamic" or (pruning.prunes and layout.image_tokens > 0)

    def _kept_layers(self, mask: np.ndarray | None) -> tuple[int, ...]:
        if mask is not None:
            return tuple(np.flatnonzero(mask).tolist())
        return self.entry.pruning.kept_layers or tuple(range(self.model.layers))


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
    loaded: dict[tuple[str, str, bool], Session] = {}

    def session(entry: Entry, graph: str) -> Session:
        # The op is in decoder graphs alone; the others stay shared between entries with it and without.
        native_op = entry.native_op and graph == entry.graphs.decoder
        key = (entry.backend, graph, native_op)
        if key not in loaded:
            path, open_session = bundle.path / graph, backend(entry.backend).open_session
            loaded[key] = own(lambda: open_session(path, options, native_op=native_op), path)
        return loaded[key]

    for entry in entries:
        check_precision(entry, options)
    prompter = _prompter(bundle)
    engines = []
    for entry in entries:
        _check_provider(entry, options)
        graphs = entry.graphs
        sessions = _Sessions(
            session(entry, graphs.vision),
            session(entry, graphs.router) if graphs.router else None,
            session(entry, graphs.decoder),
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
        prompter = Prompter(path.read_text(encoding="utf-8"), bundle.manifest.chat)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt("the tokenizer cannot be read", where=path, got=error) from error
    wanted = bundle.manifest.model.image_token_id
    if prompter.image_token_id != wanted:
        raise BundleCorrupt(
            "the tokenizer's image token is another one than the model's",
            where=path,
            got=prompter.image_token_id,
            wanted=wanted,
            remedy="build the bundle again",
        )
    prompter.check(bundle.path / GOLDEN)
    return prompter


def _check_limit(got: int, what: str, limit: int, flag: str) -> None:
    if got > limit:
        raise PromptTooLong(
            "the prompt is too long",
            where="messages",
            got=f"{got} {what}",
            wanted=f"up to {limit}",
            remedy=f"send less, or build another bundle with a higher {flag}",
        )


def layout_feeds(layout: PromptLayout) -> dict[str, np.ndarray]:
    """Returns what router and decoder are given of a prompt: ids, image rows and their images, position ids."""
    ids = np.array(layout.input_ids, np.int64)
    ids[list(layout.image_index)] = 0  # the placeholder's id need not be in the model's table
    return {
        INPUT_IDS: ids[None],
        IMAGE_INDEX: np.array(layout.image_index, np.int64),
        IMAGE_OF: np.array(layout.image_of, np.int64),
        POSITION_IDS: np.array(layout.position_ids, np.int64)[:, None],
    }


def vision_feeds(plan: ImagePlan, images: PreparedImages) -> dict[str, np.ndarray]:
    """Returns what a vision graph may be given of a prompt's images."""
    feeds = {TILES: images.tiles}
    if isinstance(plan.layout, Canvases):
        sources = token_sources(plan, images.planned)
        feeds |= {TOKEN_ROWS: sources.rows, TOKEN_WEIGHTS: sources.weights}
    return feeds


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
