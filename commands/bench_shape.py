"""A bundle of a named random shape, to see how fast the versions of a model of that size are.

What it is: one function, from a shape's name to a staged bundle without figures.
What it knows: the build stages. What it does not know: time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allrounder.bundle import OpenBundle, open_bundle
from allrounder.commands.random_model import write_random_model
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle import Staging, publish
from allrounder.export.freezer import Freezer, FreezeRequest
from allrounder.progress import Progress
from allrounder.versions import FULL, check_flow, resolve

__all__ = ["build_shape"]

_GATHER_LAYER = 2


def build_shape(shape: str, folder: Path, names: Sequence[str], progress: Progress) -> OpenBundle:
    """Writes a random host and router of ``shape`` below ``folder`` and builds the named versions, routed, in fp32.

    Raises:
        InputInvalid: There is no such shape.
        UnknownVersion: There is no such version.
    """
    progress(f"writing a random {shape}", 0, 1)
    pair = write_random_model(folder, shape)
    progress(f"writing a random {shape}", 1, 1)
    freezer = Freezer(pair.host, pair.router, folder / "frozen", progress=progress)
    tokens, layers = freezer.spec.visual_tokens, freezer.spec.decoder.layers
    freezer.shared()
    for name in names:
        version = resolve(name, tokens=tokens, layers=layers)
        full = version.name == FULL
        check_flow(version.budget, tokens=tokens, layers=layers, gather_layer=_GATHER_LAYER)
        freezer.add(FreezeRequest(version, 0, "frozen") if full else FreezeRequest(version, _GATHER_LAYER, "routed"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle", progress=progress)
