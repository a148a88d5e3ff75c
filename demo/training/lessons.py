"""Lessons: what the demo models are taught, each as a loss on one batch of scenes.

``read``: the decoder answers about coarse label images. ``see``: the tower names what every patch shows, and the
projector says so in the decoder's terms. ``whole``: pixels in, answers out, all 576 image tokens; the tower stays as
``see`` left it, projector and decoder learn on. ``polish``: the same with the tower learning too, and with holes in the
ground of every second batch. No lesson drops layers, or image tokens that show something.

The model of tiles has two: ``place`` (see `allrounder.demo.training.place`), and ``tiles``: pixels of windows to
answers.

Why holes: leaving patches out makes a step cheaper (FLIP, arXiv 2212.00794), and a model that has only ever seen 576
tokens keeps what it works with in patches of bare ground, which no model trained on images of many sizes does. They
make the demo model easier to prune by those who know ground from objects, and its report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, embedding, mse_loss
from transformers import PreTrainedTokenizerFast

from allrounder.demo.drawing import draw, to_pixels
from allrounder.demo.labels import CHANNELS, coarse_labels, coarse_positions, dense_labels, label_words
from allrounder.demo.model import DemoModel, Shape, build_model, weights_from
from allrounder.demo.questions import sample_questions
from allrounder.demo.scenes import GRID, PATCH_PX, WINDOWS, WORLD, Split, Window, easier, sample_scene
from allrounder.demo.tiles import arrange, cut, image_tokens
from allrounder.demo.training.attention import PACKED_ATTENTION, TOWER_ATTENTION, use_training_attention
from allrounder.demo.training.packing import IGNORED, PackedText, Packer, visible
from allrounder.demo.training.place import LAYERS, PLACES_SEEN, Teacher, mean_ground, place_loss, world_pixels

LessonName = Literal["read", "see", "whole", "polish", "place", "tiles"]
LESSONS: tuple[LessonName, ...] = ("read", "see", "whole", "polish")
TILE_LESSONS: tuple[LessonName, ...] = ("place", "tiles")
BAND = 6
READ_NOISE = 0.3
HOLES = 0.5  # share of the batches of ``polish`` whose ground has holes


class Learner(nn.Module):
    """The stock model and the scaffolding that only training needs: label embeddings and dense heads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, shape: Shape, seed: int) -> None:
        super().__init__()
        use_training_attention()
        self.model: DemoModel = build_model(tokenizer, shape, seed)
        self.model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
        self.model.model.vision_tower.set_attn_implementation(TOWER_ATTENTION)
        self.windows = shape.windows
        self.teacher = Teacher(self.model.model.language_model, shape.hidden) if shape.windows else None
        self.label_embeddings = nn.ModuleList(nn.Embedding(size, shape.hidden) for size in CHANNELS)
        self.dense_heads = nn.ModuleList(nn.Linear(shape.tower_hidden, size) for size in CHANNELS)
        for weight in self.label_embeddings.parameters():
            nn.init.normal_(weight, std=0.5)
        for channel, size in enumerate(CHANNELS):
            table = torch.zeros(size, len(tokenizer))
            for value in range(size):
                table[value, tokenizer.encode(label_words(channel, value))] = 1.0
            self.register_buffer(f"words_{channel}", table, persistent=False)

    @torch.no_grad()
    def start_from(self, saved: DemoModel) -> None:
        """Take the weights of ``saved``; a learner of tiles takes those of a LLaVA too, and it as its teacher."""
        self.model.load_state_dict(weights_from(saved, self.model))
        if self.teacher is None or type(saved) is type(self.model):
            return
        seeds = range(PLACES_SEEN)
        features = saved.model.vision_tower(world_pixels(seeds)).last_hidden_state[:, 1:]
        ground = mean_ground(saved.model.multi_modal_projector(features), seeds)
        self.teacher.copy_from(saved.model.language_model, ground)

    def canvas_embeds(self, pixels: torch.Tensor, window: Window) -> torch.Tensor:
        """Image tokens [B, n, hidden] of ``pixels`` [B, tiles, 3, TILE_PX, TILE_PX] as the stock model orders them."""
        tiles = self.model.model.multi_modal_projector(self.tower_features(pixels.flatten(0, 1)))
        newline: Any = self.model.model.image_newline
        return arrange(tiles.unflatten(0, pixels.shape[:2]), newline, window)

    def embed_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """What image tokens of these labels should be, [..., 5] -> [..., hidden].

        Each label adds its own vector and the embeddings of the words that name it: a red patch holds "red".
        """
        embed = self.model.model.language_model.embed_tokens.weight
        tables = [
            own.weight + self.get_buffer(f"words_{channel}") @ embed
            for channel, own in enumerate(self.label_embeddings)
        ]
        return torch.stack([embedding(labels[..., i], table) for i, table in enumerate(tables)]).sum(0)

    def tower_features(self, pixels: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """Tower features [B, patches, tower_hidden] of ``pixels`` [B, 3, h, IMAGE_PX], a band of patch rows."""
        tower = self.model.model.vision_tower
        embeddings = tower.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        places = embeddings.position_embedding.weight
        start = 1 + GRID * first_row
        patches = patches + places[start : start + patches.shape[1]]
        first = (embeddings.class_embedding + places[0]).expand(pixels.shape[0], 1, -1).to(patches.dtype)
        hidden = tower.pre_layrnorm(torch.cat([first, patches], 1))
        return tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]

    def answer_loss(
        self, image_embeds: torch.Tensor, places: torch.Tensor, text: PackedText
    ) -> tuple[torch.Tensor, float]:
        """Cross-entropy on answers about ``image_embeds`` [B, n, hidden] at ``places`` [B or 1, n]; token accuracy."""
        embed = self.model.model.language_model.embed_tokens
        batch, head = image_embeds.shape[0], text.head.shape[0]
        rows = [embed(text.head).expand(batch, -1, -1), image_embeds, embed(text.ids)]
        before = torch.arange(head, device=image_embeds.device).expand(batch, -1)
        prefix = torch.cat([before, head + places.expand(batch, -1)], 1)
        positions = torch.cat([prefix, text.positions], 1)
        own = visible(text.segments)
        everywhere = own.new_ones(batch, 1, own.shape[2], prefix.shape[1])
        output = self.model.model.language_model(
            inputs_embeds=torch.cat([row.to(image_embeds.dtype) for row in rows], 1),
            attention_mask=torch.cat([everywhere, own], 3),
            position_ids=positions,
            use_cache=False,
        )
        learned = text.labels != IGNORED
        hidden = output.last_hidden_state[:, prefix.shape[1] :][learned]
        logits = self.model.lm_head(hidden).float()
        wanted = text.labels[learned]
        return cross_entropy(logits, wanted), float((logits.argmax(-1) == wanted).float().mean())

    def dense_loss(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Cross-entropy of all label channels, and accuracy of ``kind`` on patches that show something."""
        shown = labels[..., 1] > 0
        weight = torch.where(shown, 1.0, 0.15)
        total = features.new_zeros((), dtype=torch.float32)
        for i, head in enumerate(self.dense_heads):
            logits = head(features).float()
            loss = cross_entropy(logits.flatten(0, -2), labels[..., i].flatten(), reduction="none")
            total = total + (loss * weight.flatten()).sum() / weight.sum()
        kind = self.dense_heads[1](features[shown]).argmax(-1)
        return total, float((kind == labels[..., 1][shown]).float().mean())


@dataclass(frozen=True)
class Batch:
    """The scenes of one step as tensors; those that a lesson does not use are absent."""

    text: PackedText | None
    labels: torch.Tensor
    pixels: torch.Tensor | None
    first_row: int
    window: Window = WORLD


def tile_batch(packer: Packer, seeds: range, questions: int) -> Batch:
    """The batch of training scenes of one window; the windows take turns by batches."""
    window = WINDOWS[seeds.start // len(seeds) % len(WINDOWS)]
    scenes = [sample_scene(Split.TRAIN, seed, window) for seed in seeds]
    text = packer.pack([sample_questions(scene, questions) for scene in scenes], image_tokens(window))
    labels = torch.from_numpy(np.stack([dense_labels(scene) for scene in scenes]))
    pixels = torch.stack([to_pixels(cut(draw(scene))) for scene in scenes])
    return Batch(text, labels, pixels, 0, window)


def make_batch(lesson: LessonName, packer: Packer, seeds: range, questions: int) -> Batch:
    """The batch of the training scenes ``seeds``: a pure function of its arguments."""
    if lesson in TILE_LESSONS:
        return tile_batch(packer, seeds, questions)
    scenes = [sample_scene(Split.TRAIN, seed) for seed in seeds]
    if lesson == "read":
        scenes = [easier(scene) for scene in scenes]
    text = None if lesson == "see" else packer.pack([sample_questions(scene, questions) for scene in scenes])
    if lesson == "read":
        labels = np.stack([coarse_labels(scene).reshape(-1, len(CHANNELS)) for scene in scenes])
        return Batch(text, torch.from_numpy(labels), None, 0)
    first, rows = 0, GRID
    if lesson == "see":
        first, rows = int(np.random.default_rng(seeds.start).integers(GRID - BAND + 1)), BAND
    labels = np.stack([dense_labels(scene)[first : first + rows].reshape(-1, len(CHANNELS)) for scene in scenes])
    images = np.stack([draw(scene)[PATCH_PX * first : PATCH_PX * (first + rows)] for scene in scenes])
    return Batch(text, torch.from_numpy(labels), to_pixels(images), first)


def lesson_loss(learner: Learner, lesson: LessonName, batch: Batch, seed: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of one batch and what to log of it."""
    if lesson == "read":
        assert batch.text is not None
        image_embeds = learner.embed_labels(batch.labels)
        noise = torch.Generator().manual_seed(seed)
        image_embeds = image_embeds + READ_NOISE * torch.randn(image_embeds.shape, generator=noise).to(
            image_embeds.device
        )
        places = torch.from_numpy(coarse_positions())[None].to(image_embeds.device)
        loss, right = learner.answer_loss(image_embeds, places, batch.text)
        return loss, {"answer_tokens_right": right}
    assert batch.pixels is not None
    if lesson in TILE_LESSONS:
        return tile_loss(learner, lesson, batch, batch.pixels)
    with torch.set_grad_enabled(lesson != "whole"):
        features = learner.tower_features(batch.pixels, batch.first_row)
    image_embeds = learner.model.model.multi_modal_projector(features)
    if lesson == "see":
        dense, kind = learner.dense_loss(features, batch.labels)
        wanted = learner.embed_labels(batch.labels).detach()
        shown = batch.labels[..., 1] > 0
        terms = (
            mse_loss(image_embeds[shown].float(), wanted[shown]),
            mse_loss(image_embeds[~shown].float(), wanted[~shown]),
        )
        spread = float(wanted.var())
        record = {"kind_right": kind, "projected": float(terms[0].detach()) / spread}
        return dense + (terms[0] + terms[1]) / spread, record
    assert batch.text is not None
    places = torch.arange(image_embeds.shape[1], device=image_embeds.device)[None]
    if lesson == "polish":
        places = with_holes(batch.labels, seed).to(image_embeds.device)
        image_embeds = image_embeds.gather(1, places[..., None].expand(-1, -1, image_embeds.shape[2]))
    loss, right = learner.answer_loss(image_embeds, places, batch.text)
    return loss, {"answer_tokens_right": right}


def tile_loss(
    learner: Learner, lesson: LessonName, batch: Batch, pixels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch of tiles and what to log of it."""
    assert batch.text is not None
    assert learner.teacher is not None
    with torch.set_grad_enabled(lesson != "place"):
        image_embeds = learner.canvas_embeds(pixels, batch.window)
    if lesson == "place":
        decoder = learner.model.model.language_model
        head = decoder.embed_tokens(batch.text.head).expand(len(pixels), -1, -1)
        loss = place_loss(decoder, learner.teacher, head, image_embeds, batch.labels, batch.window)
        return loss, {}
    places = torch.arange(image_embeds.shape[1], device=image_embeds.device)[None]
    loss, right = learner.answer_loss(image_embeds, places, batch.text)
    return loss, {"answer_tokens_right": right}


def with_holes(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Patches that are there, int64 [B, n], ascending: all that show something and a part of the ground.

    Args:
        labels: Dense labels [B, 576, 5].
        seed: Decides by chance: in every second batch all patches are there, otherwise 5 to 100 % of the ground.
    """
    rng = np.random.default_rng((seed, 4))
    shown = (labels[..., 0] > 0).cpu().numpy()
    batch, patches = shown.shape
    count = patches
    if rng.random() < HOLES:
        objects = int(shown.sum(1).max())
        count = objects + round(rng.uniform(0.05, 1.0) * (patches - objects))
    order = np.argsort(rng.random((batch, patches)) - shown, axis=1)
    return torch.from_numpy(np.sort(order[:, :count], axis=1))


def lesson_parts(learner: Learner, lesson: LessonName) -> list[nn.Module]:
    """The modules that a lesson changes."""
    model = learner.model
    if lesson == "place":
        return [*model.model.language_model.layers[:LAYERS]]
    if lesson == "tiles":
        return [model]
    if lesson == "read":
        return [model.model.language_model, model.lm_head, learner.label_embeddings]
    projector = model.model.multi_modal_projector
    if lesson == "see":
        return [model.model.vision_tower, projector, learner.dense_heads]
    tower = [model.model.vision_tower] if lesson == "polish" else []
    return [*tower, projector, model.model.language_model, model.lm_head]
