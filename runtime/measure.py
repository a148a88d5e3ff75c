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
from allrounder.images.planning import plan_images
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.manifest import Latency, Percentiles, Workload
from allrounder.progress import Progress, silent
from allrounder.runtime.answer import Stopwatch
from allrounder.runtime.engine import Engine

__all__ = ["Request", "Samples", "default_workload", "make_request", "measure_latency", "sample_latency", "summarise"]

_WARM_UP = 2  # rounds: the first allocates, the second settles
_QUESTION = "What is in the image?"


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

    Args:
        engine: Any engine of the bundle.
        text_tokens: Prefix and suffix ids; default 64, or the limit.
        new_tokens: Tokens drawn per request, at least 2; default 16, or the limit.
    """
    limits = engine.limits
    return Workload(
        text_tokens=text_tokens or min(64, limits.text_tokens),
        new_tokens=new_tokens or min(16, limits.new_tokens),
        batch=1,
        threads=engine.options.thread_count,
        image_size=engine.model.images.size,
    )


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
) -> tuple[Samples, ...]:
    """Times requests, interleaved over the engines, after warm-up rounds that are thrown away.

    All engines were opened with the workload's threads. ``repeats`` rounds are counted; the first that ends later than
    ``seconds``, warm-up included, is the last.

    Raises:
        InputInvalid: A workload that these engines cannot run.
        BackendError: A backend's library failed.
    """
    requests = [make_request(engine, workload) for engine in engines]
    rows: list[list[tuple[list[float], list[float]]]] = [[] for _ in engines]
    started = time.perf_counter()
    total = _WARM_UP + repeats
    for done in range(total):
        for index, (engine, request) in enumerate(zip(engines, requests, strict=True)):
            row = _time(engine, request)
            if done >= _WARM_UP:
                rows[index].append(row)
        late = seconds is not None and time.perf_counter() - started > seconds
        progress("measuring latency", total if late and done >= _WARM_UP else done + 1, total)
        if late and done >= _WARM_UP:
            break
    return tuple(_samples(engine_rows) for engine_rows in rows)


def summarise(engine: Engine, samples: Samples, workload: Workload) -> Latency:
    """Returns the percentiles of ``samples`` as the manifest holds them."""
    return Latency(
        ttft_ms=_percentiles(samples.ttft),
        tpot_ms=_percentiles(samples.tpot),
        machine=engine.machine,
        workload=workload,
    )


def make_request(engine: Engine, workload: Workload) -> Request:
    """Returns a request of the workload's size: the question's ids are repeated up to the length, or cut.

    Raises:
        InputInvalid: A workload that this engine cannot run.
    """
    limits = engine.limits
    possible = {
        "text_tokens": (2, limits.text_tokens),
        "new_tokens": (2, limits.new_tokens),
        "batch": (1, 1),
        "threads": (engine.options.thread_count, engine.options.thread_count),
    }
    for name, (low, high) in possible.items():
        if not low <= getattr(workload, name) <= high:
            wanted = f"{low} to {high}" if low < high else low
            raise InputInvalid("impossible workload", where=name, got=getattr(workload, name), wanted=wanted)
    size = workload.image_size
    rgb = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    layout = engine.layout_of(engine.ids(question(_QUESTION)), plan_images(engine.model.images, [(size, size)]))
    first, last = layout.image_index[0], layout.image_index[-1] + 1
    before = layout.input_ids[:first][: workload.text_tokens - 1]
    image, after = layout.input_ids[first:last], np.asarray(layout.input_ids[last:])
    ids = [*before, image[0], *np.resize(after, workload.text_tokens - len(before)).tolist()]
    return Request(rgb, sequential_layout(ids, image[0], [len(image)]), workload.new_tokens)


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
