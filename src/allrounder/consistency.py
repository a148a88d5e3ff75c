"""What a manifest must be to make sense as a whole."""

from __future__ import annotations

from collections.abc import Collection

from allrounder.errors import BundleCorrupt, InvalidBudget
from allrounder.images.sense import check_image_plan
from allrounder.manifest import Frozen, Manifest, Model
from allrounder.pruning import PruningConfig

__all__ = ["check_frozen", "check_manifest"]


def check_manifest(manifest: Manifest, *, where: object) -> None:
    """Checks a bundle's manifest as a whole.

    Raises:
        BundleCorrupt: No entry, an entry twice, an impossible pruning, or a graph that is not listed.
    """
    if not manifest.entries:
        raise BundleCorrupt("the manifest has no entry", where=where, remedy="build the bundle again")
    check_image_plan(manifest.model.images, where=where)
    keys = [entry.key for entry in manifest.entries]
    for entry in manifest.entries:
        place = f"{where}, entry {entry.label}"
        if keys.count(entry.key) > 1:
            raise BundleCorrupt("an entry is twice in the manifest", where=place)
        graphs = entry.graphs
        _check_pruning(entry.pruning, graphs.router, manifest.model, place)
        paths = (graphs.vision, graphs.router, graphs.decoder)
        _check_listed(paths, manifest.files, place)


def check_frozen(frozen: Frozen, *, where: object) -> None:
    """Checks what the exporter hands over as a whole.

    Raises:
        BundleCorrupt: No version, a version twice, an impossible pruning, or a graph that is not listed.
    """
    if not frozen.versions:
        raise BundleCorrupt("no version was frozen", where=where)
    check_image_plan(frozen.model.images, where=where)
    keys = [version.pruning.key for version in frozen.versions]
    shared = frozen.graphs
    _check_listed((shared.vision, shared.router), frozen.files, where)
    for version, key in zip(frozen.versions, keys, strict=True):
        place = f"{where}, version {version.pruning.version}"
        if keys.count(key) > 1:
            raise BundleCorrupt("a version was frozen twice", where=place)
        _check_pruning(version.pruning, shared.router, frozen.model, place)
        _check_listed((version.decoder,), frozen.files, place)


def _check_pruning(pruning: PruningConfig, router: str | None, model: Model, place: str) -> None:
    """Budget, policy and layers of one entry fit the model and each other, and what needs scores has a router."""
    try:
        pruning.check(layers=model.layers)
    except InvalidBudget as error:
        raise BundleCorrupt("an entry has an impossible budget", where=place, got=error) from error
    if pruning.routes and router is None:
        raise BundleCorrupt("an entry that routes has no router graph", where=place)
    if router is not None and model.router is None:
        raise BundleCorrupt("a router graph without a router in `model`", where=place, got=router)


def _check_listed(paths: Collection[str | None], files: Collection[str], place: object) -> None:
    for path in paths:
        if path is not None and path not in files:
            raise BundleCorrupt("a graph is not among the listed files", where=place, got=ascii(path[:200]))
