"""The lesson ``place``: the first decoder layers learn where on the canvas a token of a tile lies.

A tower that sees one tile cannot say in which cell of the window a patch is, as the LLaVA's did; only the order of the
tokens tells. The teacher is the decoder that the weights came from: its first layers, given the canvas without its
newlines and the shrunk image, each patch where the world has it, and with what the LLaVA's tower adds for the cell.
The learner's first layers shall make the same of the stock order; of the shrunk image and newlines they make ground.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from transformers import LlamaModel

from allrounder.demo.drawing import draw, to_pixels
from allrounder.demo.labels import dense_labels
from allrounder.demo.scenes import CELL, CELLS, GRID, Split, Window, sample_scene
from allrounder.demo.tiles import BASE_TOKENS

LAYERS = 4
OTHERS = 0.2  # weight of newlines and of the shrunk image
PLACES_SEEN = 8  # scenes that the cells' vectors are measured on


class Teacher(nn.Module):
    """The first layers of a decoder and what the image tokens of each cell have in common."""

    def __init__(self, decoder: LlamaModel, hidden: int) -> None:
        super().__init__()
        self.layers = copy.deepcopy(decoder.layers[:LAYERS])
        self.register_buffer("cells", torch.zeros(CELLS * CELLS, hidden))

    @torch.no_grad()
    def copy_from(self, decoder: LlamaModel, ground: torch.Tensor) -> None:
        """Become the first layers of ``decoder``; ``ground`` [9, hidden]: mean tokens of the ground of the cells."""
        self.layers.load_state_dict(decoder.layers[:LAYERS].state_dict())
        self.get_buffer("cells").copy_(ground - ground[CELLS * CELLS // 2])


def mean_ground(embeds: torch.Tensor, seeds: range) -> torch.Tensor:
    """Mean of the world's image tokens ``embeds`` [B, 576, hidden] of bare ground in each cell, [9, hidden]."""
    labels = torch.stack([torch.from_numpy(dense_labels(sample_scene(Split.TRAIN, seed))) for seed in seeds])
    bare, cells = labels[..., 1].flatten(1) == 0, labels[..., 2].flatten(1)
    return torch.stack([embeds[bare & (cells == cell)].mean(0) for cell in range(CELLS * CELLS)])


def world_pixels(seeds: range) -> torch.Tensor:
    """Pixels of the world's scenes ``seeds``, [B, 3, 192, 192]."""
    return to_pixels(np.stack([draw(sample_scene(Split.TRAIN, seed)) for seed in seeds]))


def world_places(window: Window) -> torch.Tensor:
    """Where in the world the canvas' patches are, row by row, int64 [patches] of 0..575."""
    rows, columns = ([CELL * cell + i for cell in cells for i in range(CELL)] for cells in _sides(window))
    return (GRID * torch.tensor(rows)[:, None] + torch.tensor(columns)).flatten()


def _sides(window: Window) -> tuple[list[int], list[int]]:
    rows = [cell // CELLS for cell in window.cells[:: window.columns]]
    return rows, [cell % CELLS for cell in window.cells[: window.columns]]


def run(layers: nn.ModuleList, rotary: nn.Module, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """What causal decoder layers make of ``embeds`` [B, n, hidden] at ``positions`` [n]."""
    angles = rotary(embeds, positions[None])
    for layer in layers:
        embeds = layer(embeds, attention_mask=None, position_embeddings=angles)
    return embeds


def place_loss(
    decoder: LlamaModel,
    teacher: Teacher,
    head: torch.Tensor,
    image: torch.Tensor,
    labels: torch.Tensor,
    window: Window,
) -> torch.Tensor:
    """How far the first layers are from the teacher's, in shares of the teacher's variance.

    Args:
        decoder: The learner's.
        teacher: What it learns from.
        head: Embedded tokens before the image, [B, head, hidden].
        image: Image tokens in the stock order, [B, n, hidden].
        labels: Dense labels of the canvas, [B, h, w, 5].
        window: What the images show.
    """
    start, device = head.shape[1], image.device
    canvas = image[:, BASE_TOKENS:].unflatten(1, (labels.shape[1], -1))
    with torch.no_grad():
        known = canvas[:, :, :-1] + teacher.get_buffer("cells")[labels[..., 2]]
        positions = torch.cat([torch.arange(start), start + world_places(window)]).to(device)
        told = torch.cat([head, known.flatten(1, 2)], 1)
        wanted = run(teacher.layers, decoder.rotary_emb, told, positions)[:, start:].float()
        ground = wanted[labels[..., 1].flatten(1) == 0]
        spread = wanted.var((0, 1)).sum()
    stock = torch.cat([head, image], 1)
    order = torch.arange(stock.shape[1], device=device)
    found = run(decoder.layers[:LAYERS], decoder.rotary_emb, stock, order)[:, start:].float()
    mine = found[:, BASE_TOKENS:].unflatten(1, (labels.shape[1], -1))
    right = (mine[:, :, :-1].flatten(1, 2) - wanted).square().sum(-1).mean()
    others = torch.cat([found[:, :BASE_TOKENS], mine[:, :, -1]], 1)
    return (right + OTHERS * (others - ground.mean(0)).square().sum(-1).mean()) / spread
