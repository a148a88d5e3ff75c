"""The race: everybody answers the same request, by turns, and is compared round by round.

What it is: a subject's protocol, the rounds, and medians and ratios with intervals.
What it knows: a clock. What it does not know: who runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from allrounder.progress import Progress
from allrounder.runtime.engine import Engine
from allrounder.runtime.measure import Request

__all__ = ["MEASURES", "WARM_UP", "Figure", "Ours", "Ratio", "Subject", "Times", "figures", "ratios", "rounds"]

WARM_UP = 4  # rounds thrown away: compiling, capturing, the first allocations, and one to settle
_RESAMPLES = 2000


class Times(NamedTuple):
    """Milliseconds of one request."""

    ttft_ms: float  # image in to first token out
    bare_ttft_ms: float  # the same, from the prepared image on
    tpot_ms: float  # mean of the further tokens


MEASURES = Times._fields


class Subject(Protocol):
    """Who takes part."""

    name: str
    answer: list[int]  # ids of the last request

    def ask(self) -> Times:
        """Answers the request once."""
        ...


class Figure(msgspec.Struct, frozen=True):
    """Of one measure, milliseconds."""

    median: float
    p95: float


class Ratio(msgspec.Struct, frozen=True):
    """Another's time over this one's: the median over rounds, with its 95 % interval."""

    median: float
    low: float
    high: float


class Ours:
    """An engine, asked as `allrounder.runtime.measure` asks: greedily, stop tokens passed over."""

    def __init__(self, name: str, engine: Engine, request: Request) -> None:
        self.name, self._engine, self._request = name, engine, request
        self.answer: list[int] = []

    def ask(self) -> Times:
        """See `Subject`."""
        engine, request = self._engine, self._request
        marks = [time.perf_counter()]
        images = engine.prepare([request.rgb])
        marks.append(time.perf_counter())
        state = engine.start(images, request.layout, free_slots=request.new_tokens - 1)
        answer = [int(np.argmax(state.logits[0]))]
        marks.append(time.perf_counter())
        for _ in range(request.new_tokens - 1):
            answer.append(int(np.argmax(engine.decode(state, answer[-1:])[0, -1])))
        marks.append(time.perf_counter())
        self.answer = answer
        return spans(marks, request.new_tokens)


def spans(marks: Sequence[float], new_tokens: int) -> Times:
    """Returns the times between four marks in seconds: start, image prepared, first token, last token."""
    start, prepared, first, last = marks
    return Times((first - start) * 1e3, (first - prepared) * 1e3, (last - first) * 1e3 / (new_tokens - 1))


def rounds(subjects: Sequence[Subject], count: int, progress: Progress) -> dict[str, np.ndarray]:
    """Returns milliseconds [count, measures] of every subject; who begins changes with every round."""
    times: dict[str, list[Times]] = {subject.name: [] for subject in subjects}
    for number in range(WARM_UP + count):
        first = number % len(subjects)
        for subject in (*subjects[first:], *subjects[:first]):
            if number == 0:  # which may compile for minutes
                progress(f"first request: {subject.name}", 0, 1)
            found = subject.ask()
            if number >= WARM_UP:
                times[subject.name].append(found)
        progress("rounds", number + 1, WARM_UP + count)
    return {name: np.asarray(rows) for name, rows in times.items()}


def figures(times: np.ndarray) -> dict[str, Figure]:
    """Returns the measures of ``times`` [rounds, measures]."""
    columns = zip(MEASURES, times.T, strict=True)
    return {name: Figure(*(round(float(v), 4) for v in np.percentile(column, (50, 95)))) for name, column in columns}


def ratios(times: Mapping[str, np.ndarray], name: str, base: str) -> dict[str, Ratio]:
    """Returns how many times as long as ``name`` the subject ``base`` takes, by measure."""
    draw = np.random.default_rng(0)
    found = {}
    for measure, pairs in zip(MEASURES, (times[base] / times[name]).T, strict=True):
        again = np.median(draw.choice(pairs, (_RESAMPLES, pairs.size)), axis=1)
        values = (np.median(pairs), *np.percentile(again, (2.5, 97.5)))
        found[measure] = Ratio(*(round(float(value), 4) for value in values))
    return found
