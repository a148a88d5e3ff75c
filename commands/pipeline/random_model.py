"""A random model with a random router, and a bundle of its versions, for measuring speed and for tests.

Such a pair shows speed and parity, never fidelity.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from allrounder.calib.layer_ranking import ranked
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import Precision
from allrounder.progress import Progress, silent
from allrounder.pruning import LayerPolicy, PruningConfig, pruning_configs
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.versions import FULL
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config
from allrounder.vlm.random.model import Shape, write_random_checkpoint

__all__ = ["RandomModel", "build_bundle_of", "build_shape", "spread", "write_random_model"]

_PRUNE_LAYER = 2


class RandomModel(NamedTuple):
    """Two directories that belong together, and the precision of what is built of them."""

    vlm: Path
    router: Path
    precision: Precision = "fp32"


def write_random_model(
    directory: Path, shape: str | Shape, *, seed: int = 0, dtype: Any = None, progress: Progress = silent
) -> RandomModel:
    """Writes ``model/`` and ``router/`` below ``directory``, in float32; the model in ``dtype`` where one is given.

    Raises:
        InputInvalid: There is no shape of that name.
    """
    import torch

    dtype = dtype or torch.float32
    vlm = write_random_checkpoint(directory / "model", shape, seed=seed, dtype=dtype, progress=progress)
    checkpoint = Checkpoint(vlm)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        text_config: Any = read_config(vlm).text_config
        router = MetaRouter(checkpoint.spec, text_config)
    save_router(router, directory / "router", model_digest=checkpoint.digest)
    return RandomModel(vlm, directory / "router")


def build_shape(
    shape: str,
    folder: Path,
    names: Sequence[str],
    progress: Progress,
    policies: Sequence[LayerPolicy] = ("dynamic",),
    backends: Sequence[str] = ("onnxruntime",),
) -> OpenBundle:
    """Writes a random model and router of ``shape`` below ``folder`` and builds the named versions of it.

    Raises:
        InputInvalid: There is no such shape.
        UnknownVersion: There is no such version.
    """
    progress(f"writing a random {shape}", 0, 1)
    pair = write_random_model(folder, shape)
    progress(f"writing a random {shape}", 1, 1)
    return build_bundle_of(pair, folder / "bundle", names, progress, policies, backends)


def build_bundle_of(
    pair: RandomModel,
    place: Path,
    names: Sequence[str],
    progress: Progress,
    policies: Sequence[LayerPolicy] = ("dynamic",),
    backends: Sequence[str] = ("onnxruntime",),
) -> OpenBundle:
    """Builds the named versions of a model at ``place``, in the pair's precision; nothing is verified or measured.

    Static layers are spread evenly over the layers: how fast one is does not depend on which layers it holds.

    Raises:
        UnknownVersion: There is no such version.
    """
    frozen = place.with_name(f"{place.name}-frozen")
    router = pair.router if set(names) != {FULL} else None
    freezer = Freezer(pair.vlm, router, frozen, FreezeOptions(pair.precision), progress)
    layers = freezer.spec.decoder.layers
    prunings = pruning_configs(names, layers=layers, prune_layer=_PRUNE_LAYER, policies=policies)
    freezer.shared()
    for pruning in prunings:
        freezer.add(spread(pruning, layers))
    freezer.finish()
    with Staging(place) as staging:
        for name in backends:
            backend(name).build(frozen, staging, BuildOptions())
        publish(staging)
    shutil.rmtree(frozen)  # the bundle's files are links to the same data
    return open_bundle(place, progress=progress)


def spread(pruning: PruningConfig, layers: int) -> PruningConfig:
    """Returns ``pruning``, static layers that nobody ranked at even distances over M ``layers``."""
    below, rest = pruning.prune_layer, pruning.layers - pruning.prune_layer
    return ranked(pruning, [below + index * (layers - below) // rest for index in range(rest)])
