"""Baseline pruners: other ways to meet a budget of image tokens and decoder layers, to be compared with the router.

A pruner meets the budget of image tokens at two places, and any of them answers for both: what of each image is shown
to the tower (`Show`), and which of the image tokens stay at layer K (`Scores`). All but those of `IMAGE_PRUNERS` show
every image whole. Scores are given like the router's, higher is kept and only order counts, so that every budget is cut
from one ranking and layers below K are kept whatever they score.

`pruner` makes one by name, ``"fastv+shortgpt"``: a token or image pruner, and a layer pruner. Methods are written from
their papers; each docstring says where it deviates. To add one, write a function from `Setting` to a callable of a
`View`, or a `Show`, and give it a line in its table: see docs/pruners.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from allrounder.errors import InputInvalid
from allrounder.fidelity_report import DOWNSCALE
from allrounder.images.shown import Show, whole
from allrounder.router.model import Scores
from allrounder.router.pruners.diverse import cdpruner, divprune
from allrounder.router.pruners.downscaling import downscale
from allrounder.router.pruners.inside import dart, fastv, shortgpt
from allrounder.router.pruners.plain import flat_layers, flat_tokens, random_layers, random_tokens, stride_tokens
from allrounder.router.pruners.setting import LayerPruner, Pruner, Setting, TokenPruner, View, check_view, embed_pixels
from allrounder.versions import Budget, check_decision

__all__ = [
    "IMAGE_PRUNERS",
    "LAYER_PRUNERS",
    "TOKEN_PRUNERS",
    "LayerPruner",
    "Pruner",
    "Setting",
    "TokenPruner",
    "View",
    "combined",
    "embed_pixels",
    "pruner",
    "shown_by",
    "token_pruner",
]

IMAGE_PRUNERS: dict[str, Show] = {DOWNSCALE: downscale}  # what they leave of an image stays

TOKEN_PRUNERS: dict[str, Callable[[Setting], TokenPruner]] = {
    "random": random_tokens,
    "stride": stride_tokens,
    "fastv": fastv,
    "dart": dart,
    "divprune": divprune,
    "cdpruner": cdpruner,
    "none": flat_tokens,
}
LAYER_PRUNERS: dict[str, Callable[[Setting], LayerPruner]] = {
    "random": random_layers,
    "shortgpt": shortgpt,
    "first": flat_layers,
    "none": flat_layers,  # the same: flat scores keep the first L
}

_Made = TypeVar("_Made")


def pruner(name: str, setting: Setting) -> Pruner:
    """Makes a pruner.

    Args:
        name: ``"<token or image pruner>+<layer pruner>"``, names of the tables.
        setting: Model, K, seed, and what `shortgpt` calibrates on.

    Returns:
        What it shows of images, and a callable of a `View` of what is shown that gives float32 scores [B, N], -inf at
        padding, and [B, M].

    Raises:
        InputInvalid: A name that is in no table; the message lists them.
        InvalidBudget: K does not fit the model.
        CalibrationError: It calibrates, and there is nothing to calibrate on.
    """
    tokens, plus, layers = name.partition("+")
    if not plus:
        raise InputInvalid(
            "a pruner is named by two names", got=name, wanted="<tokens>+<layers>, for example fastv+shortgpt"
        )
    made = token_pruner(tokens), _found("layer", LAYER_PRUNERS, layers)
    depth = setting.vlm.spec.decoder.layers
    check_decision(Budget(1, depth), tokens=1, layers=depth, prune_layer=setting.prune_layer)
    return Pruner(shown_by(tokens), combined(setting, *(make(setting) for make in made)))


def shown_by(name: str) -> Show:
    """Returns what a pruner shows of images, by the first half of its name: the whole, but for image pruners."""
    return IMAGE_PRUNERS.get(name, whole)


def token_pruner(name: str) -> Callable[[Setting], TokenPruner]:
    """Returns what makes the token scores of a pruner, by the first half of its name; equal ones for image pruners.

    Raises:
        InputInvalid: There is no such name.
    """
    return _found("token", {**TOKEN_PRUNERS, **dict.fromkeys(IMAGE_PRUNERS, flat_tokens)}, name)


def combined(setting: Setting, tokens: TokenPruner, layers: LayerPruner) -> Callable[[View], Scores]:
    """Returns the scores of two pruners that are already made: several can share a layer pruner measured once."""

    def scores(view: View) -> Scores:
        check_view(view, setting.vlm)
        return Scores(tokens(view), layers(view))

    return scores


def _found(kind: str, table: Mapping[str, _Made], name: str) -> _Made:
    if name not in table:
        raise InputInvalid(f"there is no {kind} pruner of that name", got=name, wanted=f"one of {', '.join(table)}")
    return table[name]
