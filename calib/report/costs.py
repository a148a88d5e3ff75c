"""What the budgets of a fidelity report cost: FLOPs that are counted, and time to first token that is measured.

Times are ratios to `full` within a round of one interleaved run, and the median of the rounds: a slow minute of the
machine hits both sides alike. What the router took is subtracted where its cost is not to count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from allrounder.calib.flops import DecoderSize, paper_flops, true_flops
from allrounder.calib.questions import layout_of, planned
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.fidelity_report import Cost
from allrounder.images.planning import Extent
from allrounder.manifest import Entry
from allrounder.progress import Progress, note, silent
from allrounder.prompts import Prompt
from allrounder.pruning import LayerPolicy, PruningConfig
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.measure import Samples, default_workload, sample_latency
from allrounder.runtime.memory import fits
from allrounder.vlm.spec import ModelSpec

__all__ = ["Asked", "Times", "costs", "text_tokens", "time_engines"]

ROUNDS = 20


class Times(NamedTuple):
    """Time to first token as a share of that of `full`; ``alone``: the router's part left out."""

    ttft: float
    alone: float


class Asked(NamedTuple):
    """The questions, as far as their cost depends on them; arrays are int64 [n], an image per question."""

    image_tokens: np.ndarray  # N
    text_tokens: int  # of a prompt, the template's included; the mean
    # Image tokens of smaller images that were shown at a version, of the first so many questions; by engine.
    downscaled: Mapping[tuple[str, LayerPolicy], np.ndarray]


def text_tokens(engine: Engine, prompts: Sequence[Prompt]) -> int:
    """Returns the mean length of the prompts' text, the template's included, in whole tokens."""
    images = planned(engine, prompts)
    layouts = [layout_of(engine, prompt, each) for prompt, each in zip(prompts, images, strict=True)]
    return round(float(np.mean([layout.text_tokens for layout in layouts])))


def costs(
    spec: ModelSpec, entries: Sequence[Entry], asked: Asked, router_layers: int, times: Sequence[Times | None]
) -> tuple[Cost, ...]:
    """Returns what each of ``entries`` costs, in mean over the questions, in their order.

    The first entry is `full`, which all are compared with; it is not returned. An entry that asks no router is counted
    without its ``router_layers``.
    """
    size, tokens, full = _size(spec), asked.image_tokens, entries[0].pruning

    def true(pruning: PruningConfig, layers: int = 0) -> Callable[[int], int]:
        facts = {"text_tokens": asked.text_tokens, "prune_layer": pruning.prune_layer, "router_layers": layers}
        return lambda number: true_flops(size, pruning.budget(number), image_tokens=number, **facts)

    def paper(pruning: PruningConfig) -> Callable[[int], int]:
        return lambda number: paper_flops(size, pruning.budget(number), image_tokens=number)

    def downscaled(entry: Entry) -> float | None:
        shown = asked.downscaled.get((entry.version, entry.pruning.layer_policy))
        if shown is None:
            return None
        below = _mean(true(msgspec.structs.replace(entry.pruning, keep="1")), shown)  # no layer sees more
        return below / _mean(true(full), tokens[: len(shown)])

    whole, whole_paper = _mean(true(full), tokens), _mean(paper(full), tokens)
    return tuple(
        Cost(
            version=entry.version,
            layer_policy=entry.pruning.layer_policy,
            flops=_mean(true(entry.pruning, router_layers if entry.graphs.router else 0), tokens) / whole,
            flops_alone=_mean(true(entry.pruning), tokens) / whole,
            paper_flops=_mean(paper(entry.pruning), tokens) / whole_paper,
            ttft=found and found.ttft,
            ttft_alone=found and found.alone,
            flops_downscaled=downscaled(entry),
        )
        for entry, found in list(zip(entries, times, strict=True))[1:]
    )


def _mean(flops: Callable[[int], int], tokens: np.ndarray) -> float:
    """Returns the mean of ``flops`` over numbers of image tokens, each counted once."""
    numbers, counts = np.unique(tokens, return_counts=True)
    return float(np.average([float(flops(int(number))) for number in numbers], weights=counts))


def _size(spec: ModelSpec) -> DecoderSize:
    decoder = spec.decoder
    return DecoderSize(
        hidden=decoder.hidden,
        intermediate=decoder.feed_forward,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        layers=decoder.layers,
    )


def time_engines(
    bundle: OpenBundle, entries: Sequence[Entry], text: int, image: Extent | None, progress: Progress = silent
) -> tuple[Times | None, ...]:
    """Returns the times of ``entries``, `full` first; None for all where they do not fit into memory side by side.

    Args:
        bundle: Of the entries.
        entries: What is timed, interleaved.
        text: Text tokens of the prompt.
        image: Height and width of the image; None: the usual workload's.
        progress: Called once per round.

    Raises:
        BackendError: The backend's library failed.
    """
    options = EngineOptions()
    if not fits(bundle, entries, options):
        note(progress, "note: the engines do not fit into memory side by side, so the report has no times")
        return (None,) * len(entries)
    engines = open_engines(bundle, entries, options)
    workload = default_workload(engines[0], text_tokens=min(max(text, 2), engines[0].limits.text_tokens), new_tokens=2)
    samples = sample_latency(engines, workload, repeats=ROUNDS, progress=progress, image=image)
    return tuple(_times(sample, samples[0]) for sample in samples)


def _times(sample: Samples, full: Samples) -> Times:
    shares = (sample.ttft / full.ttft, (sample.ttft - sample.router) / full.ttft)
    ttft, alone = (round(float(np.median(share)), 4) for share in shares)
    return Times(ttft, alone)
