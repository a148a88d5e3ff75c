"""What a race gives: one record for programs, one page for people.

What it is: two functions from what the races and the parity step left.
What it knows: which races hold whom. What it does not know: how anything was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from race import MEASURES, figures, ratios

__all__ = ["markdown", "report"]

_GIB = 1 << 30
_RANDOM = "random weights: speed and memory, nothing about answers"


def report(facts: Mapping[str, Any], parity: Any, races: Sequence[Any], bases: Sequence[str]) -> dict[str, Any]:
    """Returns everything as JSON holds it.

    Args:
        facts: What was asked for, and where it ran.
        parity: One record per backend.
        races: In order.
        bases: Who the others are compared with, `full` last; they are in every race, and the first one's figures count.
    """
    rows: dict[str, Any] = {}
    for number, race in enumerate(races):
        times = {name: np.asarray(values) for name, values in race["times_ms"].items()}
        for name, mine in times.items():
            if name not in rows:
                over = {base: ratios(times, name, base) for base in bases if base != name}
                rows[name] = {"race": number, "figures": figures(mine), "over": over}
    label = "the demo model" if facts["settings"].shape == "demo" else _RANDOM
    answers = races[0]["answers"]
    same = {name: _equal(answers[name], answers[bases[-1]]) for name in bases[:-1]}
    whole = {"label": label, **facts, "parity": parity, "equal_tokens": same, "rows": rows, "races": list(races)}
    return json.loads(msgspec.json.encode(whole))


def markdown(report: Mapping[str, Any]) -> str:
    """Returns a report as a page."""
    bases = list(dict.fromkeys(base for row in report["rows"].values() for base in row["over"]))
    head = ["", "TTFT ms", "without preparing", "TPOT ms"]
    head += [f"{measure} x, over {base}" for base in bases for measure in ("TTFT", "TPOT")]
    lines = [f"{report['label']}; {report['settings']['shape']}, {report['settings']['precision']}, {report['device']}"]
    lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, row in report["rows"].items():
        cells = [f"{row['figures'][measure]['median']:.2f}" for measure in MEASURES]
        for base in bases:
            over = row["over"].get(base)
            cells += [_ratio(over[measure]) if over else "" for measure in ("ttft_ms", "tpot_ms")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "x: the base's time over this one's in the same race, median of rounds [95 %]",
        "",
    ]
    for each in report["parity"]:
        verdict = {True: "met", False: "MISSED", None: "not judged: fp32 does not fit"}[each["met"]]
        fp32 = f"{each['ours_from_fp32']:.2g} from fp32, bound {each['bound']:.2g}; " if each["bound"] else ""
        tokens = f"{each['equal_tokens']} of {each['tokens']} tokens equal"
        lines.append(f"parity of {each['entry']}: {each['from_stock']:.2g} from stock, {fp32}{tokens}: {verdict}")
    for name, tokens in report["equal_tokens"].items():
        lines.append(f"answer of {name}: {tokens[0]} of {tokens[1]} tokens as `full`")
    for number, race in enumerate(report["races"] if report["device"] != "cpu" else ()):
        mine, its = race["engines_gpu_bytes"] / _GIB, race["peers_peak_gpu_bytes"] / _GIB
        lines.append(f"GPU memory in race {number}: our entries {mine:.1f} GiB, the peers {its:.1f} GiB at their peak")
    return "\n".join(lines) + "\n"


def _equal(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Returns how many tokens are equal up to where two answers first differ, and how many there are."""
    pairs = list(zip(one, other, strict=True))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs)), len(pairs)


def _ratio(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"
