"""Latencies, measured.

Engines are interleaved: every round asks each one once.

A request is one random image and one prompt of the workload's length; tokens are drawn greedily and stop tokens
are passed over, so that every request has the same length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allrounder.chat.messages import question
from allrounder.errors import InputInvalid
from allrounder.images.planning import Extent, plan_images
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.manifest import Latency, Percentiles, Workload
from allrounder.progress import Progress, silent
from allrounder.runtime.answer import Stopwatch
from allrounder.runtime.engine import Engine

__all__ = ["Request", "Samples", "default_workload", "make_request", "measure_latency", "sample_latency", "summarise"]

_WARM_UP = 2  # rounds: the first allocates, the second settles
_QUESTION = "What is in the image?"
_LEAST = 2  # text tokens: one before an image, one behind


class Samples(NamedTuple):
    """Milliseconds of an engine's requests, float64 [requests], by phase; ``steps`` is [requests, new tokens - 1].

    ``ttft`` is measured as a whole; it holds the four phases before it, and the choice of the first token.
    """

    preprocess: np.ndarray
    vision: np.ndarray
    router: np.ndarray
    prefill: np.ndarray
    ttft: np.ndarray
    steps: np.ndarray

    @property
    def tpot(self) -> np.ndarray:
        """Mean time per further token, [requests]."""
        return self.steps.mean(axis=1)


class Request(NamedTuple):
    """An image, a prompt and how many tokens are drawn."""

    rgb: np.ndarray
    layout: PromptLayout
    new_tokens: int


def default_workload(engine: Engine, *, text_tokens: int | None = None, new_tokens: int | None = None) -> Workload:
    """Returns the workload on which entries of this bundle are compared, within its limits.

    Its image is a square of a tile's size, or of two by two tiles where the model cuts images into tiles.

    Args:
        engine: Any engine of the bundle.
        text_tokens: Prefix and suffix ids, and marks between an image's tokens; default 64, or what these marks need,
            or the limit.
        new_tokens: Tokens drawn per request, at least 2; default 16, or the limit.
    """
    limits = engine.limits
    new = new_tokens or min(16, limits.new_tokens)
    side = _usual_side(engine, (text_tokens or min(64, limits.text_tokens)) + new)
    least = _LEAST + _marks(_asked(engine, (side, side)))
    return Workload(
        text_tokens=text_tokens or min(max(64, least), limits.text_tokens),
        new_tokens=new,
        batch=1,
        threads=engine.options.thread_count,
        image_size=side,
    )


def _usual_side(engine: Engine, beside: int) -> int:
    """Returns the side of the image whose tokens fit into the engine's longest sequence with ``beside`` others."""
    plan, longest = engine.model.images, engine.model.max_positions
    if plan.most_tiles == 1:
        return plan.size
    (large,) = plan_images(plan, [(2 * plan.size, 2 * plan.size)])
    fits = large.tokens <= engine.limits.image_tokens and large.tokens + beside <= longest
    return 2 * plan.size if fits else plan.size


def measure_latency(
    engines: Sequence[Engine],
    workload: Workload,
    *,
    repeats: int = 20,
    seconds: float | None = None,
    progress: Progress = silent,
) -> tuple[Latency, ...]:
    """Returns the latency of each engine on this machine; arguments as of `sample_latency`.

    Raises:
        InputInvalid: A workload that these engines cannot run.
        BackendError: A backend's library failed.
    """
    samples = sample_latency(engines, workload, repeats=repeats, seconds=seconds, progress=progress)
    return tuple(summarise(engine, sample, workload) for engine, sample in zip(engines, samples, strict=True))


def sample_latency(
    engines: Sequence[Engine],
    workload: Workload,
    *,
    repeats: int = 20,
    seconds: float | None = None,
    progress: Progress = silent,
    image: Extent | None = None,
) -> tuple[Samples, ...]:
    """Times requests, interleaved over the engines, after warm-up rounds that are thrown away.

    All engines were opened with the workload's threads. ``repeats`` rounds are counted; the first that ends later than
    ``seconds``, warm-up included, is the last. One round warms up where it takes that long. ``image`` is height and
    width of the image; None: the workload's square.

    Raises:
        InputInvalid: A workload that these engines cannot run.
        BackendError: A backend's library failed.
    """
    requests = [make_request(engine, workload, image) for engine in engines]
    rows: list[list[tuple[list[float], list[float]]]] = [[] for _ in engines]
    started = time.perf_counter()
    warm_up, total = _WARM_UP, _WARM_UP + repeats
    for done in range(total):
        for index, (engine, request) in enumerate(zip(engines, requests, strict=True)):
            row = _time(engine, request)
            if done >= warm_up:
                rows[index].append(row)
        late = seconds is not None and time.perf_counter() - started > seconds
        progress("measuring latency", total if late and done >= warm_up else done + 1, total)
        if late and done >= warm_up:
            break
        if late:
            warm_up = min(warm_up, done + 1)  # a slow model settles in its first request
    return tuple(_samples(engine_rows) for engine_rows in rows)


def summarise(engine: Engine, samples: Samples, workload: Workload) -> Latency:
    """Returns the percentiles of ``samples`` as the manifest holds them."""
    return Latency(
        ttft_ms=_percentiles(samples.ttft),
        tpot_ms=_percentiles(samples.tpot),
        machine=engine.machine,
        workload=workload,
    )


def make_request(engine: Engine, workload: Workload, image: Extent | None = None) -> Request:
    """Returns a request of the workload's size: the question's ids are repeated up to the length, or cut.

    ``image`` is height and width of its image; None: the workload's square.

    Raises:
        InputInvalid: A workload that this engine cannot run.
    """
    limits, size = engine.limits, image or (workload.image_size, workload.image_size)
    layout = _asked(engine, size)
    marks = _marks(layout)
    possible = {
        "text_tokens": (_LEAST + marks, limits.text_tokens),
        "new_tokens": (2, limits.new_tokens),
        "batch": (1, 1),
        "threads": (engine.options.thread_count, engine.options.thread_count),
    }
    for name, (low, high) in possible.items():
        if not low <= getattr(workload, name) <= high:
            wanted = f"{low} to {high}" if low < high else low
            raise InputInvalid("impossible workload", where=name, got=getattr(workload, name), wanted=wanted)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    first, last = layout.image_index[0], layout.image_index[-1] + 1
    outside = workload.text_tokens - marks
    before = layout.input_ids[:first][: outside - 1]
    block, after = layout.input_ids[first:last], np.asarray(layout.input_ids[last:])
    ids = [*before, block[0], *np.resize(after, outside - len(before)).tolist()]
    return Request(rgb, sequential_layout(ids, block[0], [block]), workload.new_tokens)


def _asked(engine: Engine, size: Extent) -> PromptLayout:
    """Returns the layout of the question about an image of that height and width."""
    return engine.layout_of(engine.ids(question(_QUESTION)), plan_images(engine.model.images, [size]))


def _marks(layout: PromptLayout) -> int:
    """Returns how many text tokens stand between the image tokens of a layout's one image."""
    return layout.image_index[-1] + 1 - layout.image_index[0] - layout.image_tokens


def _time(engine: Engine, request: Request) -> tuple[list[float], list[float]]:
    """Returns milliseconds of the phases up to the first token, its total last, and of each further token."""
    watch = Stopwatch()
    with watch.phase("preprocess"):
        images = engine.prepare([request.rgb])
    state = engine.start(images, request.layout, free_slots=request.new_tokens - 1, phase=watch.phase)
    with watch.phase("first"):
        token = int(np.argmax(state.logits[0]))
    for _ in range(request.new_tokens - 1):
        with watch.phase("decode"):
            token = int(np.argmax(engine.decode(state, [token])[0, -1]))
    spans = [milliseconds for _, milliseconds in watch.spans]
    return [*spans[:4], sum(spans[:5])], spans[5:]


def _samples(rows: list[tuple[list[float], list[float]]]) -> Samples:
    preprocess, vision, router, prefill, ttft = np.asarray([row[0] for row in rows]).T
    return Samples(preprocess, vision, router, prefill, ttft, steps=np.asarray([row[1] for row in rows]))


def _percentiles(values: np.ndarray) -> Percentiles:
    p50, p95, p99 = (round(float(value), 4) for value in np.percentile(values, (50, 95, 99)))
    return Percentiles(p50=p50, p95=p95, p99=p99)
