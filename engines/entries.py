"""From frozen versions to a bundle's entries: the part of a build that is the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allrounder.engines.backends import BuildOptions
from allrounder.engines.bundle.merging import Identity
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.frozen import read_frozen, verify_frozen
from allrounder.errors import InputInvalid
from allrounder.manifest import Entry, EntryGraphs, Frozen

__all__ = ["graph_paths", "place_frozen"]


def place_frozen(source: Path, staging: Staging, backend: str, options: BuildOptions) -> tuple[Entry, ...]:
    """Puts the files of a frozen directory into the staged bundle.

    Returns:
        The entries of ``backend`` that run them, in the order of the frozen versions; they are not staged yet.

    Raises:
        InputInvalid: ``options.only`` names a version that was not frozen.
        BundleMismatch: The bundle was made from another model, router or prompt.
        BundleCorrupt: The frozen directory is damaged.
    """
    frozen = read_frozen(source)
    staging.accept(Identity.of(frozen))
    entries = _entries(frozen, backend, options)
    verify_frozen(source, frozen, options.progress)
    for path, record in frozen.files.items():
        staging.place_file(source / path, path, record)
    return entries


def graph_paths(entries: Sequence[Entry]) -> list[str]:
    """Returns the paths of all graphs that these entries run, each once, sorted."""
    paths = set()
    for graphs in (entry.graphs for entry in entries):
        paths |= {graphs.vision, graphs.router, graphs.decoder}
    return sorted(path for path in paths if path is not None)


def _entries(frozen: Frozen, backend: str, options: BuildOptions) -> tuple[Entry, ...]:
    shared, only = frozen.graphs, options.only
    there = {version.pruning.key for version in frozen.versions}
    if only is not None and not (only and only <= there):
        raise InputInvalid("these versions were not frozen", got=sorted(only - there), wanted=sorted(there))
    return tuple(
        Entry(
            pruning=version.pruning,
            backend=backend,
            precision=frozen.precision,
            graphs=EntryGraphs(
                vision=shared.vision,
                # `full` and its like keep every token and layer: nothing to route.
                router=shared.router if version.pruning.routes else None,
                decoder=version.decoder,
            ),
            fidelity=None,
            latency=None,
            # A version that keeps every token gathers nothing.
            native_op=options.native_op and version.pruning.prunes,
        )
        for version in frozen.versions
        if only is None or version.pruning.key in only
    )
