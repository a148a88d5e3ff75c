"""Honesty checks: is the demo model hurt by careless pruning, as a real model is?

A stock model is graded on packed questions while layers are skipped or image tokens hidden at random. Nothing is
removed here; skipped layers hand through what they got, hidden tokens are masked as keys from one layer on, which gives
the same answers as removal.

``python -m allrounder.demo.honesty --model models/demo``; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from allrounder.demo.drawing import draw, to_pixels
from allrounder.demo.prompts import scene_questions
from allrounder.demo.questions import CLASSES
from allrounder.demo.scenes import GRID, Split, sample_scene
from allrounder.demo.training.packing import IGNORED, PackedText, Packer, visible
from allrounder.progress import TerminalProgress

PRUNE_LAYER = 2
KEPT_TOKENS = 128
KEPT_LAYERS_OF_4 = 3


@dataclass(frozen=True)
class Sheet:
    """Questions of a few images, packed: image tokens [B, 576, hidden], text, and each question's class."""

    image_embeds: torch.Tensor
    text: PackedText
    kinds: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pruning:
    """What is taken away: layers, and all but ``kept_tokens`` image tokens from ``PRUNE_LAYER`` on (None: none)."""

    skipped: frozenset[int] = frozenset()
    kept_tokens: int | None = None
    seed: int = 0


@torch.inference_mode()
def make_sheets(
    model: LlavaForConditionalGeneration, packer: Packer, images: int, per_image: int, split: Split
) -> list[Sheet]:
    """Run the tower on ``images`` scenes, four to a sheet."""
    sheets = []
    for start in range(0, images, 4):
        scenes = [sample_scene(split, seed) for seed in range(start, min(start + 4, images))]
        asked = [scene_questions(scene, per_image) for scene in scenes]
        pixels = to_pixels(np.stack([draw(scene) for scene in scenes])).to(model.device)
        features = cast("Any", model).get_image_features(pixel_values=pixels).pooler_output
        kinds = tuple(tuple(question.kind for question in questions) for questions in asked)
        sheets.append(Sheet(torch.stack(list(features)), packer.pack(asked).to(model.device), kinds))
    return sheets


@torch.inference_mode()
def grade(model: LlavaForConditionalGeneration, sheets: Sequence[Sheet], pruning: Pruning) -> dict[str, float]:
    """Share of questions whose greedy answer is exact, per class and ``all``.

    A greedy answer is exact if and only if every token of the right answer is the most likely one after those before
    it, so one forward pass over packed questions grades them all.
    """
    rng = np.random.default_rng(pruning.seed)
    right: dict[str, int] = dict.fromkeys(CLASSES, 0)
    total = right.copy()
    for sheet in sheets:
        exact = _exact(model, sheet, pruning, rng)
        for row, kinds in enumerate(sheet.kinds):
            for number, kind in enumerate(kinds, 1):
                mine = sheet.text.segments[row] == number
                right[kind] += bool(exact[row][mine].all())
                total[kind] += 1
    shares = {kind: right[kind] / max(total[kind], 1) for kind in CLASSES}
    return shares | {"all": sum(right.values()) / sum(total.values())}


def _exact(
    model: LlavaForConditionalGeneration, sheet: Sheet, pruning: Pruning, rng: np.random.Generator
) -> torch.Tensor:
    """Which text tokens are followed by what they should be, bool [B, text]; true where nothing is asked."""
    text, decoder = sheet.text, model.model.language_model
    batch, head, patches = sheet.image_embeds.shape[0], text.head.shape[0], GRID * GRID
    embed = decoder.embed_tokens
    inputs = torch.cat([embed(text.head).expand(batch, -1, -1), sheet.image_embeds, embed(text.ids)], 1)
    prefix = head + patches
    size = inputs.shape[1]
    mask = torch.ones(size, size, dtype=torch.bool, device=inputs.device).tril().expand(batch, 1, -1, -1).clone()
    mask[:, :, prefix:, prefix:] = visible(text.segments)
    positions = torch.arange(prefix, device=inputs.device).expand(batch, -1)
    later = mask.clone()
    if pruning.kept_tokens is not None:
        for row in range(batch):
            dropped = rng.permutation(patches)[pruning.kept_tokens :]
            later[row, :, :, head + torch.from_numpy(dropped)] = False
        later |= torch.eye(size, dtype=torch.bool, device=inputs.device)
    with pruned(model, pruning.skipped, later):
        output = decoder(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=torch.cat([positions, text.positions], 1),
            use_cache=False,
        )
    logits = model.lm_head(output.last_hidden_state[:, prefix:])
    return (logits.argmax(-1) == text.labels) | (text.labels == IGNORED)


@contextmanager
def pruned(model: LlavaForConditionalGeneration, skipped: frozenset[int], later: torch.Tensor) -> Iterator[None]:
    """The stock decoder with ``skipped`` layers handing through and mask ``later`` from ``PRUNE_LAYER`` on."""

    def hand_through(_module: object, given: tuple[torch.Tensor, ...], _result: object) -> torch.Tensor:
        return given[0]

    def hide(
        _module: object, given: tuple[torch.Tensor, ...], named: dict[str, object]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, object]]:
        return given, {**named, "attention_mask": later}

    with ExitStack() as hooks:
        for number, layer in enumerate(model.model.language_model.layers):
            if number in skipped:
                hooks.enter_context(layer.register_forward_hook(hand_through))
            if number >= PRUNE_LAYER:
                hooks.enter_context(layer.register_forward_pre_hook(hide, with_kwargs=True))
        yield


def random_layers(count: int, seed: int, first: int = 0) -> frozenset[int]:
    """A quarter of ``count`` layers to skip, by chance among those from ``first`` on."""
    skipped = count - count * KEPT_LAYERS_OF_4 // 4
    picked = np.random.default_rng(seed).permutation(np.arange(first, count))[:skipped]
    return frozenset(picked.tolist())


def prunings(layers: int, draws: int) -> dict[str, Pruning]:
    """Every condition by name."""
    found = {"full": Pruning()}
    found |= {f"without layer {layer}": Pruning(frozenset({layer})) for layer in range(layers)}
    for seed in range(draws):
        found[f"random layers {seed}"] = Pruning(random_layers(layers, seed))
        found[f"random layers, 0 and 1 kept {seed}"] = Pruning(random_layers(layers, seed, PRUNE_LAYER))
        found[f"random tokens {seed}"] = Pruning(kept_tokens=KEPT_TOKENS, seed=seed)
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How careless pruning hurts the demo model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--per-image", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model: Any = LlavaForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    model = model.to(options.device).eval()
    packer = Packer(PreTrainedTokenizerFast.from_pretrained(options.model))
    sheets = make_sheets(model, packer, options.images, options.per_image, Split.TEST)
    results: dict[str, dict[str, float]] = {}
    progress, asked = TerminalProgress(), prunings(model.config.text_config.num_hidden_layers, options.draws)
    for done, (name, pruning) in enumerate(asked.items(), start=1):
        results[name] = grade(model, sheets, pruning)
        shares = " ".join(f"{kind} {100 * share:5.1f}" for kind, share in results[name].items())
        print(f"{name:32s} {shares}", file=sys.stdout, flush=True)
        progress("prunings", done, len(asked))
    print(json.dumps({name: {kind: round(v, 4) for kind, v in row.items()} for name, row in results.items()}))


if __name__ == "__main__":
    main()
