"""What pruners read and what they are: a `View` of a batch, a `Setting`, and three kinds of callables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.router.model import Scores
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.pruned import PrunedModel

__all__ = ["LayerPruner", "Pruner", "Setting", "TokenPruner", "View", "check_view", "embed_pixels", "scores_of"]


class View(NamedTuple):
    """B questions about images. All tensors are on the model's device; made by `embed_pixels`."""

    image_embeds: Tensor  # [B, N, H], what tower and projector give
    prompt: PromptBatch  # of B rows
    embeddings: Tensor  # [B, P + N + S, H], rows [prefix | V | suffix], suffixes padded on the right
    identity: tuple[str, ...]  # [B], what names each question: random scores depend on it and the seed, on nothing else


class Setting(NamedTuple):
    """What a pruner is made from."""

    vlm: LoadedModel
    prune_layer: int  # K
    seed: int
    calibration: Sequence[View]  # read once, when a pruner that measures is made; others ignore it


TokenPruner = Callable[[View], Tensor]  # -> float32 [B, N], higher is kept
LayerPruner = Callable[[View], Tensor]  # -> float32 [B, M], higher is kept
Pruner = Callable[[View], Scores]


def embed_pixels(vlm: LoadedModel, image_embeds: Tensor, prompt: PromptBatch, identity: Sequence[str]) -> View:
    """Returns the view of B questions; ``image_embeds`` is [B, N, H], and ``identity`` names each question.

    Raises:
        InputInvalid: They are not B of each.
    """
    view = View(image_embeds, prompt, PrunedModel(vlm).embeddings(image_embeds, prompt), tuple(identity))
    check_view(view, vlm)
    return view


def check_view(view: View, vlm: LoadedModel) -> None:
    """Checks that a view is of this model.

    Raises:
        InputInvalid: A shape is wrong, or there is not one identity per row.
    """
    batch, tokens, hidden = len(view.identity), vlm.spec.image_tokens, vlm.spec.decoder.hidden
    rows = view.prompt.prefix_ids.shape[1] + tokens + view.prompt.suffix_ids.shape[1]
    expected = {
        "image_embeds": (view.image_embeds, (batch, tokens, hidden)),
        "embeddings": (view.embeddings, (batch, rows, hidden)),
        "suffix_lengths": (view.prompt.suffix_lengths, (batch,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise InputInvalid("a view that does not fit", where=name, got=list(tensor.shape), wanted=list(shape))


def scores_of(order: Tensor) -> Tensor:
    """Returns scores whose ranking is ``order`` int64 [B, N], best first: float32 [B, N], N down to 1."""
    points = torch.arange(order.shape[1], 0, -1, dtype=torch.float32, device=order.device)
    return torch.empty(order.shape, dtype=torch.float32, device=order.device).scatter_(
        1, order, points.expand_as(order)
    )
