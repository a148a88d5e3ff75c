"""What a build is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from allrounder.manifest import Precision
from allrounder.pruning import LAYER_POLICIES, LayerPolicy, PruningConfig, custom_version, pruning_configs
from allrounder.versions import EVERYTHING, Budget, Keep, check_decision

__all__ = ["BuildRequest", "LimitFlags"]


class LimitFlags(NamedTuple):
    """What ``--max-images``, ``--max-text-tokens``, ``--max-new-tokens`` and ``--max-batch`` give.

    None: what fits the model.
    """

    images: int | None = None
    text_tokens: int | None = None
    new_tokens: int | None = None
    batch: int | None = None

    @property
    def given(self) -> dict[str, int]:
        """The flags that were given, by name."""
        return {f"--max-{name.replace('_', '-')}": value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is to be built; every default that needs no model is filled in."""

    versions: tuple[str, ...]
    keep: Keep | None  # with `layers`, a version of its own beside `versions`; None of both: there is none
    layers: int | None
    vlm: str  # a directory or a hub id
    router: Path | None
    backend: str
    precision: Precision
    layer_policy: LayerPolicy | Literal["both"] | None  # None: all that the backend runs and there are layers for
    prune_layer: int
    calib: Path | None
    own_prompts: bool  # whoever asks gave `calib`: fidelity is measured on it, and no report of the router is read
    out: Path | None  # None: where the backend's builds end
    force: bool  # build and measure again what the bundle already holds
    native_op: bool = False  # the entries ask for the native gather op, and are measured with it where it is here
    flags: tuple[str, ...] = ()  # of the command line, with values, that remedies repeat: where things lie, and limits
    limits: LimitFlags = field(default_factory=LimitFlags)

    def prunings(self, *, layers: int, policies: tuple[LayerPolicy, ...]) -> tuple[PruningConfig, ...]:
        """Returns what is to be built of a model of M ``layers`` for a backend that runs ``policies``.

        Raises:
            UnknownVersion: There is no such version.
            InvalidBudget: The model cannot be pruned so.
        """
        versions = self.versions
        if self.keep is not None or self.layers is not None:
            keep = EVERYTHING if self.keep is None else self.keep
            kept = layers if self.layers is None else self.layers
            check_decision(Budget(1, kept), tokens=1, layers=layers, prune_layer=0)
            versions += (custom_version(keep, kept),)
        if self.layer_policy is not None:
            policies = LAYER_POLICIES if self.layer_policy == "both" else (self.layer_policy,)
        return pruning_configs(versions, layers=layers, prune_layer=self.prune_layer, policies=policies)
