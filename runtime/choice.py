"""The choice of an engine by latency target.

A pure function of the figures in the entries.

Monotone by construction: a looser target admits every entry that a tighter one admits, and the winner is the first
of what is admitted in one fixed order, so a looser target never gives a less faithful entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from allrounder.errors import InputInvalid, NoEngineMeetsTarget
from allrounder.fingerprint import Machine
from allrounder.manifest import Entry, Percentiles
from allrounder.versions import FULL

__all__ = ["Fallback", "LatencyTarget", "by_faithfulness", "choose", "figures", "table"]

Fallback = Literal["fastest"]
_PRECISIONS = {"bf16": 8, "fp16": 11, "fp32": 24}  # bits of the significand


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """What a user can wait for; at least one figure is named.

    Args:
        ttft_ms: Milliseconds from image in to first token out.
        tpot_ms: Milliseconds per further token.
        percentile: Which share of requests must meet the figures: 50, 95 or 99.

    Raises:
        InputInvalid: No figure, a figure that is not a positive number, or another percentile.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    percentile: Literal[50, 95, 99] = 95

    def __post_init__(self) -> None:
        given = {
            name: value for name, value in (("ttft_ms", self.ttft_ms), ("tpot_ms", self.tpot_ms)) if value is not None
        }
        if not given:
            raise InputInvalid("a latency target names at least one figure", wanted="ttft_ms or tpot_ms")
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise InputInvalid("impossible latency target", where=name, got=value, wanted="milliseconds above 0")
        if self.percentile not in (50, 95, 99):
            raise InputInvalid("unknown percentile", got=self.percentile, wanted="50, 95 or 99")

    def __str__(self) -> str:
        parts = [f"{name} <= {value:g} ms" for name, value in (("ttft", self.ttft_ms), ("tpot", self.tpot_ms)) if value]
        return f"{' and '.join(parts)} at p{self.percentile}"


def by_faithfulness(entries: Sequence[Entry]) -> tuple[int, ...]:
    """Returns the indices of ``entries``, most faithful first.

    `full` first at equal precision, then lowest mean KL, then larger T x L, then higher precision, then the order
    given; entries without fidelity come last, by budget. To make that one total order, `full` counts with the
    lowest KL of its precision (0 where nobody measured it).
    """

    def key(index: int) -> tuple[bool, float, bool, int, int, int]:
        entry = entries[index]
        full = entry.version == FULL
        kl = _full_kl(entries, entry.precision) if full else _kl(entry)
        budget = -entry.pruning.size
        return kl is None, kl or 0.0, not full, budget, -_PRECISIONS[entry.precision], index

    return tuple(sorted(range(len(entries)), key=key))


def choose(
    entries: Sequence[Entry],
    target: LatencyTarget | None = None,
    machine: Machine | None = None,
    *,
    fallback: Fallback | None = None,
) -> Entry:
    """Returns the most faithful entry that meets ``target``; without one the most faithful of all.

    Args:
        entries: What there is, in manifest order; at least one.
        target: None asks for no figure.
        machine: Where it will run, a latency measured elsewhere does not count; None takes figures as they are.
        fallback: ``"fastest"`` returns the entry that comes nearest to the target where none meets it.

    Raises:
        NoEngineMeetsTarget: None meets it; the message lists every entry with its figures.
        InputInvalid: An unknown fallback.
    """
    if fallback not in (None, "fastest"):
        raise InputInvalid("unknown fallback", got=repr(fallback), wanted="None or 'fastest'")
    order = by_faithfulness(entries)
    if target is None:
        return entries[order[0]]
    misses = {index: _miss(entries[index], target, machine) for index in order}
    for index in order:
        if misses[index] <= 1:
            return entries[index]
    nearest = min(order, key=lambda index: misses[index])
    if fallback == "fastest" and math.isfinite(misses[nearest]):
        return entries[nearest]
    raise NoEngineMeetsTarget(
        f"no engine meets the target\n{table(entries, target, machine)}\n",
        wanted=target,
        remedy="loosen the target, build a smaller version, or pass fallback='fastest'",
    )


def figures(entry: Entry, machine: Machine | None) -> tuple[Percentiles, Percentiles] | None:
    """Returns TTFT and TPOT of ``entry`` where they count on ``machine`` (None: anywhere), else None."""
    latency = entry.latency
    if latency is None or machine not in (None, latency.machine):
        return None
    return latency.ttft_ms, latency.tpot_ms


def table(entries: Sequence[Entry], target: LatencyTarget, machine: Machine | None) -> str:
    """Returns the entries with their figures at the target's percentile, most faithful first, as plain text."""
    width = max(len(entry.label) for entry in entries)
    name = f"p{target.percentile}"
    lines = []
    for index in by_faithfulness(entries):
        known = figures(entries[index], machine)
        text = "not measured on this machine"
        if known:
            text = f"ttft {getattr(known[0], name):9.2f} ms  tpot {getattr(known[1], name):8.2f} ms  ({name})"
        lines.append(f"  {entries[index].label:<{width}}  {text}")
    return "\n".join(lines)


def _kl(entry: Entry) -> float | None:
    return None if entry.fidelity is None else entry.fidelity.kl.mean


def _full_kl(entries: Sequence[Entry], precision: str) -> float:
    """Returns the KL with which `full` counts at a precision: the lowest there, 0 where its own is unknown."""
    peers = [entry for entry in entries if entry.precision == precision]
    known = [0.0 if entry.version == FULL and entry.fidelity is None else _kl(entry) for entry in peers]
    return min((kl for kl in known if kl is not None), default=0.0)


def _miss(entry: Entry, target: LatencyTarget, machine: Machine | None) -> float:
    """Returns the entry's figure over the target's, the worse of the two; up to 1 meets it, infinite is unknown."""
    known = figures(entry, machine)
    if known is None:
        return math.inf
    name = f"p{target.percentile}"
    pairs = zip(known, (target.ttft_ms, target.tpot_ms), strict=True)
    return max(getattr(figure, name) / limit for figure, limit in pairs if limit is not None)
