"""What a manifest must be to make sense as a whole.

What it is: the checks across records: unique keys, possible flows, layer plans, graphs that are listed.
What it knows: the manifest's records and the rule of versions. What it does not know: the file system.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from allrounder.errors import BundleCorrupt, InvalidBudget
from allrounder.manifest import Entry, Frozen, FrozenVersion, Manifest, Model, Precision, schema_of
from allrounder.versions import FULL, Budget, check_flow

__all__ = ["check_frozen", "check_manifest"]


def check_manifest(manifest: Manifest, *, where: object) -> None:
    """Checks a bundle's manifest as a whole.

    Raises:
        BundleCorrupt: No entry, an entry twice, an impossible flow or plan, a graph that is not listed, or a schema
            that is too old for what it holds.
    """
    _check_schema(manifest.schema, [entry.precision for entry in manifest.entries], where)
    if not manifest.entries:
        raise BundleCorrupt("the manifest has no entry", where=where, remedy="build the bundle again")
    keys = [entry.key for entry in manifest.entries]
    for entry in manifest.entries:
        place = f"{where}, entry {entry.label}"
        if keys.count(entry.key) > 1:
            raise BundleCorrupt("an entry stands twice in the manifest", where=place)
        _check_flow(entry, manifest.model, place)
        graphs = entry.graphs
        _check_router(entry, graphs.router, manifest.model, place)
        paths = (graphs.preprocess, graphs.vision, graphs.router, graphs.prefill, graphs.decode)
        _check_listed(paths, manifest.files, place)


def check_frozen(frozen: Frozen, *, where: object) -> None:
    """Checks what the exporter hands over as a whole.

    Raises:
        BundleCorrupt: No version, a version twice, an impossible flow or plan, a graph that is not listed, or a schema
            that is too old for what it holds.
    """
    _check_schema(frozen.schema, [frozen.precision], where)
    if not frozen.versions:
        raise BundleCorrupt("no version was frozen", where=where)
    keys = [(version.version, version.gather_layer, version.layer_policy) for version in frozen.versions]
    shared = frozen.graphs
    _check_listed((shared.preprocess, shared.vision, shared.router), frozen.files, where)
    for version, key in zip(frozen.versions, keys, strict=True):
        place = f"{where}, version {version.version}"
        if keys.count(key) > 1:
            raise BundleCorrupt("a version was frozen twice", where=place)
        _check_flow(version, frozen.model, place)
        _check_router(version, shared.router, frozen.model, place)
        _check_listed((version.prefill, version.decode), frozen.files, place)


def _check_schema(schema: int, precisions: Sequence[Precision], where: object) -> None:
    wanted = schema_of(precisions)
    if schema < wanted:
        raise BundleCorrupt(
            "the schema is older than what the manifest holds", where=where, got=f"schema {schema}", wanted=str(wanted)
        )


def _check_flow(flow: Entry | FrozenVersion, model: Model, place: str) -> None:
    """Budget, policy and plan of one entry fit the host and each other."""
    try:
        budget = Budget(flow.tokens, flow.layers)
        check_flow(budget, tokens=model.visual_tokens, layers=model.layers, gather_layer=flow.gather_layer)
    except InvalidBudget as error:
        raise BundleCorrupt("an entry has an impossible budget", where=place, got=error) from error
    whole = Budget(model.visual_tokens, model.layers)
    if flow.version == FULL and (budget != whole or flow.layer_policy != "frozen"):
        raise BundleCorrupt(
            f"{FULL} keeps everything and is frozen",
            where=place,
            got=f"{budget.tokens}/{budget.layers}, {flow.layer_policy}",
            wanted=f"{whole.tokens}/{whole.layers}, frozen",
        )
    _check_plan(flow, model, place)


def _check_plan(flow: Entry | FrozenVersion, model: Model, place: str) -> None:
    plan = flow.layer_plan
    if flow.layer_policy == "routed":
        if plan is not None:
            raise BundleCorrupt("a routed entry chooses its layers per input and has no layer plan", where=place)
        return
    if plan is None:
        raise BundleCorrupt("a frozen entry has no layer plan", where=place, wanted=f"{flow.layers} layers")
    wanted = f"{flow.layers} of the layers 0 to {model.layers - 1}, ascending, from 0 to {flow.gather_layer - 1} all"
    complete = len(plan) == flow.layers and all(low < high for low, high in pairwise(plan)) and plan[-1] < model.layers
    if not complete or plan[: flow.gather_layer] != tuple(range(flow.gather_layer)):
        raise BundleCorrupt("a layer plan contradicts its entry", where=place, got=plan[:100], wanted=wanted)


def _check_router(flow: Entry | FrozenVersion, router: str | None, model: Model, place: str) -> None:
    routes = flow.tokens < model.visual_tokens or flow.layer_policy == "routed"
    if routes and router is None:
        raise BundleCorrupt("an entry that routes has no router graph", where=place)
    if router is not None and model.router is None:
        raise BundleCorrupt("a router graph without a router in `model`", where=place, got=router)


def _check_listed(paths: Collection[str | None], files: Collection[str], place: object) -> None:
    for path in paths:
        if path is not None and path not in files:
            raise BundleCorrupt("a graph is not among the listed files", where=place, got=ascii(path[:200]))
