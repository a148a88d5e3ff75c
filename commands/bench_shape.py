"""A bundle of a named random shape, to see how fast the versions of a model of that size are.

What it is: from a shape's name, or a random model, to a published bundle without figures.
What it knows: the build stages. What it does not know: time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from allrounder.bundle import OpenBundle, open_bundle
from allrounder.commands.random_model import RandomModel, write_random_model
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle import Staging, publish
from allrounder.export.freezer import Freezer, FreezeRequest
from allrounder.manifest import LayerPolicy
from allrounder.progress import Progress
from allrounder.versions import FULL, check_flow, resolve

__all__ = ["build_bundle_of", "build_shape", "spread"]

_GATHER_LAYER = 2


def build_shape(
    shape: str, folder: Path, names: Sequence[str], progress: Progress, policies: Sequence[LayerPolicy] = ("routed",)
) -> OpenBundle:
    """Writes a random host and router of ``shape`` below ``folder`` and builds the named versions of it.

    Raises:
        InputInvalid: There is no such shape.
        UnknownVersion: There is no such version.
    """
    progress(f"writing a random {shape}", 0, 1)
    pair = write_random_model(folder, shape)
    progress(f"writing a random {shape}", 1, 1)
    return build_bundle_of(pair, folder / "bundle", names, progress, policies)


def build_bundle_of(
    pair: RandomModel,
    place: Path,
    names: Sequence[str],
    progress: Progress,
    policies: Sequence[LayerPolicy] = ("routed",),
) -> OpenBundle:
    """Builds the named versions of a model at ``place``, in fp32; nothing is verified or measured.

    Frozen plans are spread evenly over the layers: how fast one is does not depend on which layers it holds.

    Raises:
        UnknownVersion: There is no such version.
    """
    frozen = place.with_name(f"{place.name}-frozen")
    freezer = Freezer(pair.host, pair.router if set(names) != {FULL} else None, frozen, progress=progress)
    tokens, layers = freezer.spec.visual_tokens, freezer.spec.decoder.layers
    versions = [resolve(name, tokens=tokens, layers=layers) for name in names]
    for version in versions:
        check_flow(version.budget, tokens=tokens, layers=layers, gather_layer=_GATHER_LAYER)
    freezer.shared()
    for version in versions:
        if version.name == FULL:
            freezer.add(FreezeRequest(version, 0, "frozen"))
            continue
        for policy in policies:
            plan = None if policy == "routed" else spread(version.budget.layers, layers)
            freezer.add(FreezeRequest(version, _GATHER_LAYER, policy, plan))
    freezer.finish()
    with Staging(place) as staging:
        backend("onnxruntime").build(frozen, staging, BuildOptions())
        publish(staging)
    shutil.rmtree(frozen)  # the bundle's files are links to the same data
    return open_bundle(place, progress=progress)


def spread(kept: int, layers: int) -> tuple[int, ...]:
    """Returns a plan of ``kept`` layers: those below K, the others at even distances."""
    order = list(range(_GATHER_LAYER, layers))
    rest = kept - _GATHER_LAYER
    return (*range(_GATHER_LAYER), *(order[index * len(order) // rest] for index in range(rest)))
