"""Baseline pruners: other ways to score image tokens and decoder layers, to be compared with the router.

There are two tables, of token pruners and of layer pruners, and `pruner` makes one of each by name,
``"fastv+shortgpt"``. Methods are written from their papers; each docstring says where it deviates. A pruner gives
`Scores` like the router does, higher is kept and only order counts, so that every budget is cut from one ranking and
layers below K are kept whatever they score.

To add one, write a function from `Setting` to a callable of a `View` and give it a line in its table: see
docs/pruners.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from allrounder.errors import InputInvalid
from allrounder.router.model import Scores
from allrounder.router.pruners.diverse import cdpruner, divprune
from allrounder.router.pruners.inside import dart, fastv, shortgpt
from allrounder.router.pruners.plain import flat_layers, flat_tokens, random_layers, random_tokens, stride_tokens
from allrounder.router.pruners.setting import LayerPruner, Pruner, Setting, TokenPruner, View, check_view, embed_pixels
from allrounder.versions import Budget, check_decision

__all__ = [
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
]

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
        name: ``"<token pruner>+<layer pruner>"``, names of the two tables.
        setting: Model, K, seed, and what `shortgpt` calibrates on.

    Returns:
        A callable of a `View` that gives float32 scores [B, N], -inf at padding, and [B, M].

    Raises:
        InputInvalid: A name that is in no table; the message lists them.
        InvalidBudget: K does not fit the model.
        CalibrationError: It calibrates, and there is nothing to calibrate on.
    """
    token_name, plus, layer_name = name.partition("+")
    if not plus:
        raise InputInvalid(
            "a pruner is named by two names", got=name, wanted="<tokens>+<layers>, for example fastv+shortgpt"
        )
    tokens, layers = _found("token", TOKEN_PRUNERS, token_name), _found("layer", LAYER_PRUNERS, layer_name)
    depth = setting.vlm.spec.decoder.layers
    check_decision(Budget(1, depth), tokens=1, layers=depth, prune_layer=setting.prune_layer)
    return combined(setting, tokens(setting), layers(setting))


def combined(setting: Setting, tokens: TokenPruner, layers: LayerPruner) -> Pruner:
    """Returns one pruner of two that are already made: several can share a layer pruner that was measured once."""

    def scores(view: View) -> Scores:
        check_view(view, setting.vlm)
        return Scores(tokens(view), layers(view))

    return scores


def _found(kind: str, table: Mapping[str, _Made], name: str) -> _Made:
    if name not in table:
        raise InputInvalid(f"there is no {kind} pruner of that name", got=name, wanted=f"one of {', '.join(table)}")
    return table[name]
