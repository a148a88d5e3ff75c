"""The fidelity report: what every version of one model and router keeps, beside what other pruners keep.

A report is a file of its own (`report.json`), bound by hashes to what it was measured on; `build` copies its figures
into bundles that match.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from allrounder.errors import CalibrationError
from allrounder.manifest import (
    Entry,
    Estimate,
    Figures,
    Model,
    Precision,
    Recommendation,
    Sha256,
    encode,
)
from allrounder.pruning import LayerPolicy, PruningConfig
from allrounder.records import Count, Positive
from allrounder.records import Record as _Record
from allrounder.versions import FULL, Budget

__all__ = [
    "DOWNSCALE",
    "REPORT",
    "REPORT_SCHEMA",
    "ROUTER",
    "Comparison",
    "Cost",
    "Dataset",
    "FidelityReport",
    "Figures",
    "Recommendation",
    "Row",
    "Tiles",
    "TilesRow",
    "read_report",
    "write_report",
]

REPORT = "report.json"  # its name inside a router directory
REPORT_SCHEMA = 3
ROUTER = "router"  # the pruner that is the trained router
DOWNSCALE = "downscale"  # the first half of a pruner that shows a smaller image and selects no token

Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class Dataset(_Record, frozen=True, kw_only=True):
    """The questions: ``name`` and digest as in `allrounder.prompts.PromptSet`, and where they come from."""

    name: str
    about: str
    questions: Positive


class Row(_Record, frozen=True, kw_only=True):
    """One pruner at one budget under one layer policy."""

    pruner: str  # `ROUTER`, or "<token pruner>+<layer pruner>"
    pruning: PruningConfig
    figures: Figures
    kinds: dict[str, Figures]  # by class of question
    layer_use: tuple[Share, ...]  # [M], in which share of the questions each layer was run
    kept_tokens: NotNegative  # of an image from layer K on, counted: the mean over its questions

    @property
    def version(self) -> str:
        """The name of its version."""
        return self.pruning.version

    @property
    def downscales(self) -> bool:
        """Whether smaller images were shown."""
        return self.pruner.partition("+")[0] == DOWNSCALE


class Comparison(_Record, frozen=True, kw_only=True):
    """The router against another pruner on the same questions, at the same budget, which none may exceed.

    ``kept_tokens`` of an image, in mean, were the router's, and ``other_kept_tokens`` the other's.

    ``difference`` is the router's agreement minus the other's; ``p`` the one-sided paired bootstrap probability that
    the router is not better, at least 1 / resamples; likewise ``kl_difference`` (negative is good) and ``kl_p``.
    """

    version: str
    pruner: str
    questions: Positive
    difference: Estimate
    p: Share
    kl_difference: Estimate
    kl_p: Share
    kept_tokens: NotNegative
    other_kept_tokens: NotNegative


class Cost(_Record, frozen=True, kw_only=True):
    """What a budget costs, as shares of `full`: FLOPs of the decoder's prefill, and measured time to first token.

    FLOPs are of each question's own number of image tokens, in mean; times are of an image of median size.
    ``flops`` is true mode with the router, ``flops_alone`` without it; ``paper_flops`` is the paper's way of counting.
    ``ttft`` is the median of interleaved ratios with the router; ``ttft_alone`` without it, which is what other pruners
    are plotted against, in their favour: their own cost is not counted. None where nothing was timed.
    ``flops_downscaled`` is ``flops_alone`` of images that are shown smaller, whose other tokens no layer sees; None
    where that was not measured.
    """

    version: str
    layer_policy: LayerPolicy
    flops: float
    flops_alone: float
    paper_flops: float
    ttft: float | None
    ttft_alone: float | None
    flops_downscaled: float | None


class TilesRow(_Record, frozen=True, kw_only=True):
    """One pruner at one version, on questions whose images have the same number of tiles."""

    pruner: str
    version: str
    layer_policy: LayerPolicy
    kept_tokens: NotNegative  # counted, the mean
    figures: Figures


class Tiles(_Record, frozen=True, kw_only=True):
    """Questions whose images have so many tiles; all rows are of the same ones, those that every pruner was asked."""

    tiles: Positive
    questions: Positive
    image_tokens: Annotated[float, Meta(ge=1)]  # N, the mean
    rows: tuple[TilesRow, ...]  # `full` first


class FidelityReport(_Record, frozen=True, kw_only=True):
    """`report.json`."""

    schema: Literal[3]
    producer: str
    model: str  # the model's name
    model_digest: Sha256
    router: Sha256
    backend: str
    precision: Precision
    prune_layer: Count
    image_tokens: Positive  # N of an image: every question is about one; the mean, rounded, where N differs
    layers: Positive
    dataset: Dataset
    full: Figures  # of `full` itself: its accuracy; agreement 1 and KL 0
    full_kinds: dict[str, Figures]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    costs: tuple[Cost, ...]
    recommendations: tuple[Recommendation, ...]
    by_tiles: tuple[Tiles, ...]  # ascending; empty where all images have the same number of tiles

    def row(self, version: str, layer_policy: LayerPolicy, pruner: str = ROUTER) -> Row | None:
        """Returns the row of that version, policy and pruner, if there is one."""
        for row in self.rows:
            if (row.version, row.pruning.layer_policy, row.pruner) == (version, layer_policy, pruner):
                return row
        return None

    def budget(self, row: Row) -> Budget:
        """Returns T of an image of ``image_tokens``, and L, as a row's version has them; fewer may have been kept."""
        return row.pruning.budget(self.image_tokens)

    def cost(self, row: Row) -> tuple[float | None, float | None]:
        """Returns FLOPs and time to first token of a row, as shares of `full`, where they are known.

        The router's own share counts in its rows; that of other pruners does not, in their favour. Smaller images have
        their own FLOPs, and were not timed.
        """
        for cost in self.costs:
            if (cost.version, cost.layer_policy) == (row.version, row.pruning.layer_policy):
                if row.pruner == ROUTER:
                    return cost.flops, cost.ttft
                if row.downscales:
                    return cost.flops_downscaled, None
                return cost.flops_alone, cost.ttft_alone
        return None, None

    def figures_of(self, entry: Entry, model: Model) -> tuple[Figures, dict[str, Figures]] | None:
        """Returns the figures that hold for ``entry``, whole and by class, if there are any."""
        if self.differences(entry, model):
            return None
        if entry.version == FULL:
            return self.full, self.full_kinds
        row = self.row(entry.version, entry.pruning.layer_policy)
        return row and (row.figures, row.kinds)

    def differences(self, entry: Entry, model: Model) -> tuple[str, ...]:
        """Returns why the report does not speak of ``entry`` of a bundle of ``model``; empty where it does.

        Model, router, backend, precision and pruning must be the same; `full` has no router and drops nothing.
        """
        pairs: list[tuple[str, object, object]] = [
            ("model", self.model_digest, model.digest),
            ("backend", self.backend, entry.backend),
            ("precision", self.precision, entry.precision),
        ]
        if entry.version == FULL:
            return _unequal(pairs)
        ours = entry.pruning
        pairs += [("router", self.router, model.router), ("prune layer", self.prune_layer, ours.prune_layer)]
        row = self.row(entry.version, ours.layer_policy)
        if row is None:
            return (*_unequal(pairs), f"it has no row for {entry.version}, {ours.layer_policy}")
        pairs += [
            ("keep rule", row.pruning.keep, ours.keep),
            ("number of decoder layers", row.pruning.layers, ours.layers),
            ("list of kept layers", row.pruning.kept_layers, ours.kept_layers),
        ]
        return _unequal(pairs)


def _unequal(pairs: list[tuple[str, object, object]]) -> tuple[str, ...]:
    return tuple(f"another {what}" for what, ours, theirs in pairs if ours != theirs)


def write_report(report: FidelityReport, path: Path) -> None:
    """Writes a report; equal reports give equal bytes, and a kill leaves the old file or the new one.

    Raises:
        BundleCorrupt: A figure is NaN or infinite.
    """
    temporary = path.with_name(path.name + ".next")
    temporary.write_bytes(encode(report))
    temporary.replace(path)


def read_report(path: Path) -> FidelityReport:
    """Reads a report.

    Raises:
        CalibrationError: The file cannot be read, or is no report that this program knows.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=FidelityReport)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise CalibrationError(
            "the fidelity report cannot be read",
            where=path,
            got=error,
            remedy="write it again with `allrounder report`, or delete it: build then measures a quick one",
        ) from error
