"""Models, views and settings that the tests of pruners share."""

from __future__ import annotations

import torch

from allrounder.router.pruners import Setting, View, embed_pixels
from allrounder.router.selection import ranking
from allrounder.vlm.llava.random_model import Shape
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import model_prompt

QUESTIONS = ("what is this?", "where is the very small red thing on the left?", "how many?")
SHAPES = {
    "llama": Shape(vision={"image_size": 84}),  # 36 image tokens, more than its hidden size of 32
    "qwen3": Shape(text_type="qwen3", text={"head_dim": 12}, vision={"image_size": 70}),  # 25, norms on its keys
}
MEASURING = {"fastv", "dart", "divprune", "cdpruner"}


def view_of(vlm: LoadedModel, questions=QUESTIONS, seed: int = 0, width: int | None = None) -> View:
    generator = torch.Generator().manual_seed(seed)
    width = width or vlm.spec.decoder.hidden
    image_embeds = torch.randn(len(questions), vlm.spec.image_tokens, width, generator=generator)
    # a common part, as real features have one: cosines are then mostly positive
    image_embeds = image_embeds + torch.randn(1, 1, width, generator=generator)
    return embed_pixels(vlm, image_embeds, model_prompt(vlm, list(questions)), [f"{seed}/{text}" for text in questions])


def alone(vlm: LoadedModel, view: View, row: int) -> View:
    return embed_pixels(vlm, view.image_embeds[row : row + 1], view.prompt.row(row), [view.identity[row]])


def setting_of(vlm: LoadedModel, prune_layer: int = 2, seed: int = 0) -> Setting:
    return Setting(vlm, prune_layer, seed, (view_of(vlm, seed=7), view_of(vlm, QUESTIONS[1:2], seed=8)))


def order_of(scores: torch.Tensor) -> list[list[int]]:
    return ranking(scores).tolist()


def stock(vlm: LoadedModel, view: View, row: int, **more):
    """The library's own forward of one prompt."""
    return vlm.model(inputs_embeds=alone(vlm, view, row).embeddings, use_cache=False, **more)
