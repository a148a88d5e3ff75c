"""What pruners read and what they are: a `View` of a batch, a `Setting`, and the kinds of callables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.images.shown import Show
from allrounder.router.model import Scores
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.pruned import PrunedModel

__all__ = ["LayerPruner", "Pruner", "Setting", "TokenPruner", "View", "check_view", "embed_pixels", "scores_by_image"]


class View(NamedTuple):
    """B questions about images. All tensors are on the model's device; made by `embed_pixels`."""

    image_embeds: Tensor  # [B, N, H], what tower and projector give, a row's images one after another
    prompt: PromptBatch  # of B rows
    embeddings: Tensor  # [B, R, H], the prompt's rows
    identity: tuple[str, ...]  # [B], what names each question: random scores depend on it and the seed, on nothing else


class Setting(NamedTuple):
    """What a pruner is made from."""

    vlm: LoadedModel
    prune_layer: int  # K
    seed: int
    calibration: Sequence[View]  # read once, when a pruner that measures is made; others ignore it


TokenPruner = Callable[[View], Tensor]  # -> float32 [B, N], higher is kept; -inf at padding
LayerPruner = Callable[[View], Tensor]  # -> float32 [B, M], higher is kept


class Pruner(NamedTuple):
    """A way to meet a budget: what is shown of images at a keep rule, and scores of what is shown."""

    show: Show
    scores: Callable[[View], Scores]


def embed_pixels(vlm: LoadedModel, image_embeds: Tensor, prompt: PromptBatch, identity: Sequence[str]) -> View:
    """Returns the view of B questions.

    Args:
        vlm: Whose embeddings are read.
        image_embeds: [B, N, H], a row's images one after another.
        prompt: B prompts.
        identity: One name per question.

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
    batch, hidden = len(view.identity), vlm.spec.decoder.hidden
    expected = {
        "image_embeds": (view.image_embeds, (batch, view.prompt.image_of.shape[1], hidden)),
        "embeddings": (view.embeddings, (batch, view.prompt.input_ids.shape[1], hidden)),
        "prompt.lengths": (view.prompt.lengths, (batch,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise InputInvalid("a view that does not fit", where=name, got=list(tensor.shape), wanted=list(shape))


def scores_by_image(view: View, order: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Returns scores float32 [B, N] that rank each image's tokens by themselves, -inf at padding.

    Args:
        view: B questions.
        order: Gives of a row of the batch and the places int64 [N_i] of one image's tokens in it (of N) the ranking
            of those places, int64 [N_i], best first.
    """
    scores = torch.full(view.prompt.image_of.shape, -torch.inf, device=view.image_embeds.device)
    for row, owner in enumerate(view.prompt.image_of):
        for image in range(int(owner.max()) + 1 if len(owner) else 0):
            places = (owner == image).nonzero()[:, 0]
            points = torch.arange(len(places), 0, -1, dtype=torch.float32, device=scores.device)
            scores[row, places[order(row, places)]] = points
    return scores
