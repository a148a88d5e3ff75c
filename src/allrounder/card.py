"""The fidelity card: what every version of one host and router keeps, beside what other pruners keep.

What it is: frozen typed records, and their reading and writing as JSON. A card is a file of its own (`card.json`), bound
by hashes to what it was measured on; `build` copies its figures into bundles that match.
What it knows: which figures there are, and when a card speaks of an entry.
What it does not know: how anything is measured (`allrounder.calib`), drawn or chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from allrounder.errors import CalibrationError
from allrounder.manifest import Count, Entry, Estimate, LayerPolicy, Model, Positive, Precision, Sha256, encode_record
from allrounder.manifest import Record as _Record

__all__ = [
    "CARD",
    "CARD_SCHEMA",
    "ROUTER",
    "Card",
    "Comparison",
    "Cost",
    "Dataset",
    "Figures",
    "Recommendation",
    "Row",
    "read_card",
    "write_card",
]

CARD = "card.json"  # its name inside a router directory
CARD_SCHEMA = 1
ROUTER = "router"  # the pruner that is the trained router

Share = Annotated[float, Meta(ge=0, le=1)]


class Dataset(_Record, frozen=True, kw_only=True):
    """The questions: ``name`` and digest as in `allrounder.prompts.PromptSet`, and in words where they come from."""

    name: str
    about: str
    questions: Positive


class Figures(_Record, frozen=True, kw_only=True):
    """Fidelity on one set of questions, against `full` on the same ones; accuracies where they have answers."""

    questions: Positive
    accuracy: Estimate | None
    retention: Estimate | None  # accuracy over that of `full`
    agreement: Estimate
    kl: Estimate  # nats per token


class Row(_Record, frozen=True, kw_only=True):
    """One pruner at one budget under one layer policy."""

    pruner: str  # `ROUTER`, or "<token pruner>+<layer pruner>"
    version: str  # of the table, or t<T>-l<L>
    tokens: Positive
    layers: Positive
    layer_policy: LayerPolicy
    layer_plan: tuple[Count, ...] | None  # where frozen
    figures: Figures
    kinds: dict[str, Figures]  # by class of question
    layer_use: tuple[Share, ...]  # [M], in which share of the questions each layer was run


class Comparison(_Record, frozen=True, kw_only=True):
    """The router against another pruner on the same questions, at the same budget.

    ``difference`` is the router's agreement minus the other's; ``p`` the one-sided paired bootstrap probability that the
    router is not better, at least 1 / resamples; likewise ``kl_difference`` (negative is good) and ``kl_p``.
    """

    version: str
    pruner: str
    questions: Positive
    difference: Estimate
    p: Share
    kl_difference: Estimate
    kl_p: Share


class Cost(_Record, frozen=True, kw_only=True):
    """What a budget costs, as shares of `full`: FLOPs of the decoder's prefill, and measured time to first token.

    ``flops`` is true mode with the router, ``flops_alone`` without it; ``paper_flops`` is the paper's way of counting.
    ``ttft`` is the median of interleaved ratios with the router; ``ttft_alone`` without it, which is what other pruners
    are plotted against, in their favour: their own cost is not counted. None where nothing was timed.
    """

    version: str
    layer_policy: LayerPolicy
    flops: float
    flops_alone: float
    paper_flops: float
    ttft: float | None
    ttft_alone: float | None


class Recommendation(_Record, frozen=True, kw_only=True):
    """Which layer policy a version should be built with, and why, in one sentence with its figures."""

    version: str
    layer_policy: LayerPolicy
    why: str


class Card(_Record, frozen=True, kw_only=True):
    """`card.json`."""

    schema: Literal[1]
    producer: str
    model: str  # the host's name
    host: Sha256
    router: Sha256
    backend: str
    precision: Precision
    gather_layer: Count
    visual_tokens: Positive
    layers: Positive
    dataset: Dataset
    full: Figures  # of `full` itself: its accuracy; agreement 1 and KL 0
    full_kinds: dict[str, Figures]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    costs: tuple[Cost, ...]
    recommendations: tuple[Recommendation, ...]

    def row(self, version: str, layer_policy: LayerPolicy, pruner: str = ROUTER) -> Row | None:
        """Returns the row of that version, policy and pruner, if there is one."""
        for row in self.rows:
            if (row.version, row.layer_policy, row.pruner) == (version, layer_policy, pruner):
                return row
        return None

    def row_of(self, entry: Entry, model: Model) -> Row | None:
        """Returns the router's row that was measured on what ``entry`` of a bundle of ``model`` runs, if there is one.

        Host, router, backend, precision, K, budget, policy and, where frozen, the plan must all be the same.
        """
        ours = (self.host, self.router, self.backend, self.precision, self.gather_layer)
        theirs = (model.host, model.router, entry.backend, entry.precision, entry.gather_layer)
        row = self.row(entry.version, entry.layer_policy)
        if ours != theirs or row is None:
            return None
        same = (row.tokens, row.layers, row.layer_plan) == (entry.tokens, entry.layers, entry.layer_plan)
        return row if same else None


def write_card(card: Card, path: Path) -> None:
    """Writes a card; equal cards give equal bytes, and a kill leaves the old file or the new one.

    Raises:
        BundleCorrupt: A figure is NaN or infinite.
    """
    temporary = path.with_name(path.name + ".next")
    temporary.write_bytes(encode_record(card))
    temporary.replace(path)


def read_card(path: Path) -> Card:
    """Reads a card.

    Raises:
        CalibrationError: The file cannot be read, or is no card that this program knows.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise CalibrationError(
            "the fidelity card cannot be read",
            where=path,
            got=error,
            remedy="write it again with `allrounder card`, or delete it: build then measures a quick one",
        ) from error
