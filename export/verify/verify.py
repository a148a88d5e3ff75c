"""Proving a frozen directory: every graph obeys its rules and computes what the eager modules compute.

It reads the files, as an engine does, and not how they were written.

Layer by layer: each layer of each graph is cut out and run against the stock layer, one stock layer in memory at a
time, so that a 7B is verified in the memory of its largest layer. Models of at most `SMALL` bytes of weights are
verified as a whole as well: prompt and new tokens of every version against the removing model.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import onnx

from allrounder.errors import InputInvalid
from allrounder.export.freezer import FROZEN, GRAPHS
from allrounder.export.graph.pruned_spec import PrunedSpec, pruned_spec
from allrounder.export.graph.rules import check_graph
from allrounder.export.verify import expected
from allrounder.export.verify.compare import Check, Comparison
from allrounder.export.verify.decoder import Graph, verify_decision, verify_decoder
from allrounder.export.verify.reference import StockParts
from allrounder.export.verify.shared import verify_pixels, verify_router, verify_vision
from allrounder.export.weights.widened import widened
from allrounder.manifest import Frozen, FrozenVersion, decode
from allrounder.progress import Progress, silent
from allrounder.router.checkpoint import load_router
from allrounder.vlm.model import load_model, model_directory
from allrounder.vlm.processor import load_processor

__all__ = ["SMALL", "Report", "verify"]

SMALL = 256 << 20  # bytes of model weights up to which whole decisions are compared


class Report(NamedTuple):
    """What was proved now; graphs that were proved before are not counted."""

    graphs: int
    comparisons: int
    worst: Check | None  # None where nothing was left to compare


def verify(
    frozen_dir: Path | str,
    model_dir: Path | str,
    router_dir: Path | str | None,
    progress: Progress = silent,
    *,
    proved: Collection[str] = (),
) -> Report:
    """Verifies every graph of a frozen directory.

    ``proved`` names graphs that were verified before, with the same weights: a name holds a digest of the content, so
    they are the same. Their rules are checked again, their figures are not.

    Raises:
        GraphInvalid: A graph breaks a rule; names graph and node.
        VerificationFailed: A graph computes something else; names graph, value and largest difference.
        InputInvalid: The directory was frozen from another model, or with a router and none is given.
    """
    folder, directory = Path(frozen_dir), model_directory(model_dir)
    frozen = decode((folder / FROZEN).read_bytes(), Frozen, where=folder / FROZEN)
    parts = StockParts(directory)
    _check_sources(frozen, parts, router_dir)
    router = None if router_dir is None else load_router(router_dir, model_spec=parts.spec, model_digest=parts.digest)
    specs = [(version, pruned_spec(parts.spec, version.pruning)) for version in frozen.versions]
    models = _check_rules(folder, frozen, specs, 0 if router is None else len(router.layers), progress)
    comparison = Comparison(folder / GRAPHS, frozen.precision)
    if frozen.graphs.vision not in proved:
        processor = load_processor(directory, parts.spec.model_type)
        verify_pixels(comparison, models[frozen.graphs.vision], frozen.model.images, processor.image_processor)
        verify_vision(comparison, models[frozen.graphs.vision], frozen.model.images, parts, progress)
    if frozen.graphs.router is not None and frozen.graphs.router not in proved and router is not None:
        verify_router(comparison, models[frozen.graphs.router], parts, router)
    new = [
        Graph(version.decoder, models[version.decoder], pruned)
        for version, pruned in specs
        if version.decoder not in proved
    ]
    if new:
        verify_decoder(comparison, new, parts, progress)
        _verify_decisions(comparison, new, frozen, directory, progress)
    return Report(len(models.keys() - set(proved)), len(comparison.checks), comparison.worst())


def _verify_decisions(
    comparison: Comparison, graphs: list[Graph], frozen: Frozen, directory: Path, progress: Progress
) -> None:
    """Compares whole decisions where the model is small enough to be loaded whole."""
    if sum(record.bytes for name, record in frozen.files.items() if name.endswith(".bin")) <= SMALL:
        vlm = load_model(directory)
        for done, graph in enumerate(graphs):
            verify_decision(comparison, graph, vlm)
            progress("verifying whole decisions", done + 1, len(graphs))


def _check_sources(frozen: Frozen, parts: StockParts, router_dir: Path | str | None) -> None:
    if frozen.model.digest != parts.digest:
        raise InputInvalid(
            "frozen from another model",
            where=parts.checkpoint.directory,
            got=parts.digest,
            wanted=frozen.model.digest,
        )
    if frozen.graphs.router is not None and router_dir is None:
        raise InputInvalid("frozen with a router, which is needed to verify it", remedy="give the router directory")


def _check_rules(
    folder: Path, frozen: Frozen, specs: list[tuple[FrozenVersion, PrunedSpec]], router_layers: int, progress: Progress
) -> dict[str, onnx.ModelProto]:
    """Checks every graph against its rules and returns them all, without weights and as a CPU can run them."""
    spec = specs[0][1].spec
    rules = {frozen.graphs.vision: expected.vision(spec)}
    if frozen.graphs.router is not None:
        rules[frozen.graphs.router] = expected.router(spec, router_layers)
    for version, pruned in specs:
        rules[version.decoder] = expected.decoder(pruned)
    models = {}
    for done, (name, wanted) in enumerate(rules.items()):
        models[name] = widened(check_graph(folder / name, wanted))
        progress("checking graphs", done + 1, len(rules))
    return models
