"""What the budgets of a fidelity report cost: FLOPs that are counted, and time to first token that is measured.

Times are ratios to `full` within a round of one interleaved run, and the median of the rounds: a slow minute of the
machine hits both sides alike. What the router took is subtracted where its cost is not to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allrounder.calib.flops import DecoderSize, paper_flops, true_flops
from allrounder.calib.questions import layout_of
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.fidelity_report import Cost
from allrounder.manifest import Entry
from allrounder.progress import Progress, note, silent
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.measure import Samples, default_workload, sample_latency
from allrounder.runtime.memory import fits
from allrounder.vlm.spec import ModelSpec

__all__ = ["Times", "costs", "text_tokens", "time_engines"]

ROUNDS = 20


class Times(NamedTuple):
    """Time to first token as a share of that of `full`; ``alone``: the router's part left out."""

    ttft: float
    alone: float


def text_tokens(engine: Engine, prompts: Sequence[Prompt]) -> int:
    """Returns the mean length of the prompts' text, the template's included, in whole tokens."""
    return round(float(np.mean([layout_of(engine, prompt).text_tokens for prompt in prompts])))


def costs(
    spec: ModelSpec, entries: Sequence[Entry], text: int, router_layers: int, times: Sequence[Times | None]
) -> tuple[Cost, ...]:
    """Returns what each of ``entries`` costs for a prompt of one image, in their order.

    The first entry is `full`, which all are compared with; it is not returned. An entry that asks no router is counted
    without its ``router_layers``.
    """
    decoder, tokens = spec.decoder, spec.image_tokens
    size = DecoderSize(
        hidden=decoder.hidden,
        intermediate=decoder.feed_forward,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        layers=decoder.layers,
    )
    full = entries[0]

    def counted(entry: Entry, layers: int) -> int:
        return true_flops(
            size,
            entry.pruning.budget(tokens),
            image_tokens=tokens,
            text_tokens=text,
            prune_layer=entry.pruning.prune_layer,
            router_layers=layers,
        )

    def paper(entry: Entry) -> int:
        return paper_flops(size, entry.pruning.budget(tokens), image_tokens=tokens)

    return tuple(
        Cost(
            version=entry.version,
            layer_policy=entry.pruning.layer_policy,
            flops=counted(entry, router_layers if entry.graphs.router else 0) / counted(full, 0),
            flops_alone=counted(entry, 0) / counted(full, 0),
            paper_flops=paper(entry) / paper(full),
            ttft=found and found.ttft,
            ttft_alone=found and found.alone,
        )
        for entry, found in list(zip(entries, times, strict=True))[1:]
    )


def time_engines(
    bundle: OpenBundle, entries: Sequence[Entry], text: int, progress: Progress = silent
) -> tuple[Times | None, ...]:
    """Returns the times of ``entries``, `full` first; None for all where they do not fit into memory side by side.

    Raises:
        BackendError: The backend's library failed.
    """
    options = EngineOptions()
    if not fits(bundle, entries, options):
        note(progress, "note: the engines do not fit into memory side by side, so the report has no times")
        return (None,) * len(entries)
    engines = open_engines(bundle, entries, options)
    workload = default_workload(engines[0], text_tokens=min(max(text, 2), engines[0].limits.text_tokens), new_tokens=2)
    samples = sample_latency(engines, workload, repeats=ROUNDS, progress=progress)
    return tuple(_times(sample, samples[0]) for sample in samples)


def _times(sample: Samples, full: Samples) -> Times:
    shares = (sample.ttft / full.ttft, (sample.ttft - sample.router) / full.ttft)
    ttft, alone = (round(float(np.median(share)), 4) for share in shares)
    return Times(ttft, alone)
