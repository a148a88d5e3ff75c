"""Advice: which layer policy each version of a bundle should be built with.

What it is: pure functions from measured entries to recommendations, and to what must be built before there can be one.
What it knows: which entries differ in their layer policy alone. What it does not know: the rule
(`allrounder.calib.card.recommend`), and how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.calib.card import recommend, row
from allrounder.calib.fidelity import Outcomes
from allrounder.card import ROUTER
from allrounder.manifest import Entry, Recommendation
from allrounder.versions import FULL

__all__ = ["Advice", "advise"]

Key = tuple[str, str, str, int, str]


class Advice(NamedTuple):
    """Recommendations, and in words, of which versions there is none and why."""

    recommendations: tuple[Recommendation, ...]
    not_compared: tuple[str, ...]


def advise(entries: Sequence[Entry], outcomes: Mapping[Key, Outcomes], place: Path) -> Advice:
    """Returns what ``outcomes`` say about the layer policies of ``entries``.

    Entries that differ in nothing but the policy are compared. Where a version is there in several backends, precisions
    or gather layers, each has its recommendation, which then names them. A version that keeps every layer has no policy
    to choose.

    Args:
        entries: All entries of a bundle, `full` among them, with their latency where they have one.
        outcomes: By `Entry.key`, on the same questions.
        place: The bundle, for what to do next.
    """
    groups: dict[tuple[str, str, str, int], dict[str, Entry]] = {}
    depth = max(entry.layers for entry in entries)
    for entry in entries:
        if entry.layers < depth:
            groups.setdefault(entry.key[:4], {})[entry.layer_policy] = entry
    versions = [version for version, *_ in groups]
    recommendations: list[Recommendation] = []
    missing: list[str] = []
    for group, policies in groups.items():
        if len(policies) < 2:
            missing.append(_missing(next(iter(policies.values())), place))
            continue
        found = _compared(policies, outcomes, entries)
        if versions.count(found.version) > 1:
            found = msgspec.structs.replace(found, why=f"{group[1]}, {group[2]}, K={group[3]}: {found.why}")
        recommendations.append(found)
    return Advice(tuple(recommendations), tuple(missing))


def _compared(
    policies: Mapping[str, Entry], outcomes: Mapping[Key, Outcomes], entries: Sequence[Entry]
) -> Recommendation:
    routed, frozen = policies["routed"], policies["frozen"]
    return recommend(
        routed.version,
        row(outcomes[routed.key], ROUTER, routed),
        row(outcomes[frozen.key], ROUTER, frozen),
        _share_of_full(routed, entries),
        _share_of_full(frozen, entries),
    )


def _share_of_full(entry: Entry, entries: Sequence[Entry]) -> float | None:
    """Returns the median time to first token over that of `full`; None where one of them was not timed."""
    for full in entries:
        same = (full.version, full.backend, full.precision) == (FULL, entry.backend, entry.precision)
        if same and full.latency and entry.latency:
            return entry.latency.ttft_ms.p50 / full.latency.ttft_ms.p50
    return None


def _missing(entry: Entry, place: Path) -> str:
    other = "frozen" if entry.layer_policy == "routed" else "routed"
    command = (
        f"allrounder build --version {entry.version} --layer-policy {other} --backend {entry.backend} "
        f"--precision {entry.precision} --gather-layer {entry.gather_layer} --out {place}"
    )
    return (
        f"{entry.version}: only {entry.layer_policy} is in this bundle; to compare, build {other} as well, with the "
        f"same --model, --router and --calib, and calibrate again: {command}"
    )
