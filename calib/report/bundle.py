"""The work bundle of a fidelity report: every engine that is measured, frozen, verified and staged like any other.

The stages in their order, as in `commands/pipeline/build.py`, without quick fidelity and latency.

Layers are ranked by other prompts than the report's questions, and as `build` ranks them: a bundle that is built with
the same prompts then has the same layers, and the report speaks of its entries. A graph that the bundle holds is not
proved again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from allrounder.calib.layer_ranking import layer_order, ranked
from allrounder.calib.questions import ranking_prompts
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.verify.verify import verify
from allrounder.manifest import Entry
from allrounder.progress import Progress
from allrounder.prompts import Prompt
from allrounder.pruning import PruningConfig
from allrounder.runtime.engine import Engine

__all__ = ["BACKEND", "PRECISION", "Sources", "build_work_bundle", "entries_of"]

BACKEND = "onnxruntime"
PRECISION = "fp32"  # fp16 runs on no CPU as such, and the report is measured on one


class Sources(NamedTuple):
    """What the engines are made of: a model's directory, its router's, and K of all engines but `full`."""

    vlm: Path
    router: Path
    prune_layer: int


def build_work_bundle(
    sources: Sources, engines: Sequence[PruningConfig], ranking: Sequence[Prompt], place: Path, progress: Progress
) -> OpenBundle:
    """Builds ``engines`` into the bundle at ``place`` and returns it; what it holds already stays.

    Raises:
        AllRounderError: Whatever the stages refuse; the place is then what it was.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with Staging(place, progress=progress) as staging, tempfile.TemporaryDirectory(dir=place.parent) as work:
        frozen = Path(work) / "frozen"
        options = FreezeOptions(PRECISION, name=sources.vlm.name, reuse=staging.base)
        freezer = Freezer(sources.vlm, sources.router, frozen, options, progress)
        freezer.shared()

        def build(wanted: Sequence[PruningConfig], order: Sequence[int] = ()) -> tuple[Entry, ...]:
            for each in wanted:
                freezer.add(ranked(each, order))
            freezer.finish()
            return backend(BACKEND).build(frozen, staging, BuildOptions(progress=progress))

        unranked = [each for each in engines if each.unranked]
        entries = build([each for each in engines if each not in unranked])
        if unranked:
            ranked_by = next(entry for entry in entries if entry.pruning.layer_policy == "dynamic")
            engine = Engine.open(
                open_bundle(staging.path, progress=progress), ranked_by, EngineOptions(weights="shared")
            )
            build(unranked, layer_order(engine, ranking_prompts(ranking), sources.prune_layer, progress))
        proved = frozenset(staging.base.manifest.files) if staging.base else frozenset()
        verify(frozen, sources.vlm, sources.router, progress, proved=proved)
        return publish(staging)


def entries_of(bundle: OpenBundle, engines: Sequence[PruningConfig]) -> tuple[Entry, ...]:
    """Returns the entries of ``engines``, in their order."""
    entries = {entry.pruning.key: entry for entry in bundle.manifest.entries}
    return tuple(entries[engine.key] for engine in engines)
