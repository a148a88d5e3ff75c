"""What a request gives back, and the stopwatch: how long its phases took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = ["Answer", "Finish", "Phase", "Stopwatch", "Timing", "Usage"]

Finish = Literal["stop", "length"]
Phase = Callable[[str], AbstractContextManager[None]]  # what is opened around a phase


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one request, by phase; what lies between the phases (tokenising, sampling) is in none.

    ``ttft_ms`` runs from the call to the first token, reading the image included; ``tpot_ms`` is the mean over the
    further tokens, None where there is none. Time during which a stream's owner does not pull is not counted.

    In a batch (`Scheduler`) the phases are the request's own, but each ``decode_ms`` is that of steps which others
    shared. ``ttft_ms`` counts the waiting in the queue, and ``tpot_ms`` the prompts of others that ran in between: they
    are what whoever asks waits for. Time between two steps is not counted once the request runs.
    """

    preprocess_ms: float
    vision_ms: float
    router_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    tpot_ms: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens a request had: of text and of images in its prompt, image tokens that stayed, new ones."""

    text_tokens: int
    image_tokens: int
    kept_image_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        text: The answer without stop token and stop text; the concatenation of what `stream` yields.
        token_ids: Every token drawn, the stop token included where one ended the answer.
        prompt_ids: The prompt's text tokens, those around its images, in one row.
        keep_indices: The image tokens that reached the layers from K on, ascending, counted over all images; all N of
            `full`.
        kept_layers: The decoder layers that were executed, ascending.
        usage: Numbers of tokens.
        timing: Milliseconds per phase.
        finish: ``stop`` (stop token or stop text) or ``length`` (``max_new_tokens`` reached).
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    usage: Usage
    timing: Timing
    finish: Finish


class Stopwatch:
    """Times phases, one after another; what happens between two (a stream's owner thinking) is not counted."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float]] = []  # milliseconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what is done within."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, started)

    def add(self, name: str, started: float) -> None:
        """Adds a phase that began at ``started``, by `time.perf_counter`, and ends now."""
        self.spans.append((name, (time.perf_counter() - started) * 1000))

    def of(self, name: str) -> float:
        """Returns the milliseconds of all phases of that name."""
        return sum(milliseconds for each, milliseconds in self.spans if each == name)

    @property
    def total(self) -> float:
        """The milliseconds of all phases."""
        return sum(milliseconds for _, milliseconds in self.spans)
