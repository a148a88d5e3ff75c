"""What a build is asked for.

What it is: one record between the arguments and the build.
What it knows: that every default is filled in. What it does not know: arguments, and how anything is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allrounder.manifest import LayerPolicy, Precision

__all__ = ["BuildRequest"]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is to be built; every default is filled in already."""

    versions: tuple[str, ...]
    budget: str | None  # T/L, a version of its own beside `versions`
    host: str  # a directory or a hub id
    router: Path | None
    backend: str
    precision: Precision
    layer_policy: LayerPolicy
    gather_layer: int
    calib: Path | None
    own_prompts: bool  # whoever asks gave `calib`: fidelity is measured on it, and no card of the router is read
    out: Path | None  # None: where the backend's builds end
    force: bool  # build and measure again what the bundle already holds
    native_op: bool = False  # the entries ask for the native gather op, and are measured with it where it is here
    words: tuple[str, ...] = ()  # of the command line, that remedies repeat: model, router, prompts, place
