"""What the suite of tile families and its planted faults share: prompts, comparisons, frozen directories.

Images are wide, tall, tiny, of one tile and of many, one to three in a prompt, text between them where a template lets
it stand there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from allrounder.calib.layer_ranking import ranked
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import publish
from allrounder.engines.bundle.staging import Staging
from allrounder.export.freezer import Freezer
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.layout import keep_counts
from allrounder.pruning import pruning_config
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.router.selection import keep_indices
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 20
# Height and width: many tiles, wide, tall, tiny, square, one tile's own, very wide.
SIZES = [(120, 130), (40, 150), (160, 30), (5, 7), (60, 60), (42, 42), (20, 200)]
CASES = [[size] for size in SIZES] + [SIZES[:2], [SIZES[3], SIZES[4]], SIZES[1:4], SIZES[4:7]]


def rgb(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*size, seed]).integers(0, 256, (*size, 3), np.uint8)


def part(text: str | None) -> dict:
    return {"type": "image"} if text is None else {"type": "text", "text": text}


def asked(images: int) -> list[dict]:
    """A conversation with so many images; the second has text before it, the third stands in a later turn."""
    first = [None, "first", *[None, "second"][: 2 * (images > 1)]]
    turns = [{"role": "user", "content": [part(each) for each in first]}]
    if images > 2:
        turns.append({"role": "assistant", "content": [part("a red ring")]})
        turns.append({"role": "user", "content": [part("and"), part(None), part("what?")]})
    return turns


def prompt_of(vlm: LoadedModel, sizes: list[tuple[int, int]]):
    """Layout and stock image tokens of a conversation about images of these sizes."""
    images = [rgb(size, seed) for seed, size in enumerate(sizes)]
    pixels = torch.from_numpy(pixel_values(vlm.images, prepare_images(vlm.images, images).tiles))
    (layout,) = model_layouts(vlm, [asked(len(sizes))], sizes=[sizes])
    return layout, PrunedModel(vlm).image_embeds(pixels, sizes)


def assert_removed_equals_masked(vlm, sizes, rule, kept_layers, prune_layer):
    layout, embeds = prompt_of(vlm, sizes)
    pruned, prompt = PrunedModel(vlm), prompt_batch([layout])
    scores = torch.randn(prompt.image_of.shape, generator=torch.Generator().manual_seed(0))
    keep = keep_indices(scores, prompt.image_of, rule)
    counts = [int((prompt.image_of[0][keep[0]] == image).sum()) for image in range(len(sizes))]
    assert tuple(counts) == keep_counts(layout, rule)
    decision = PruningDecision(keep, kept_layers, prune_layer)
    state = pruned.prefill(embeds[None], prompt, decision)
    found, answer = [state.logits[:, None]], []
    for _ in range(STEPS):
        answer.append(found[-1][:, -1].argmax(dim=-1, keepdim=True))
        found.append(pruned.decode(state, answer[-1]))
    logits = torch.cat(found, dim=1)
    wanted = masked_logits(vlm, embeds[None], prompt, decision, torch.cat(answer, dim=1))
    assert wanted.std() > 0.5
    assert (logits - wanted).abs().max() <= TOLERANCE * wanted.std(), "removed differs from masked"
    assert torch.equal(logits.argmax(dim=-1), wanted.argmax(dim=-1))


DECISIONS = [("full", 0, "static"), ("par-lite", 2, "dynamic"), ("par-lite", 2, "static"), ("par-nano", 0, "static")]
DECISIONS += [("par-nano", 0, "dynamic")]


def frozen(vlm: LoadedModel, place: Path) -> tuple[Path, Path]:
    """Returns directories of a random router and of all decisions, frozen."""
    torch.manual_seed(1)
    save_router(MetaRouter(vlm.spec, vlm.model.config.text_config), place / "router", model_digest=vlm.digest)
    freezer = Freezer(vlm.source, place / "router", place / "frozen")
    freezer.shared()
    depth = vlm.spec.decoder.layers
    for name, prune_layer, policy in DECISIONS:
        pruning = pruning_config(name, layers=depth, prune_layer=prune_layer, layer_policy=policy)
        freezer.add(ranked(pruning, [*range(depth - 1, prune_layer - 1, -1)]))
    freezer.finish()
    return place / "router", place / "frozen"


def write_bundle(folder: Path, place: Path, name: str = "onnxruntime") -> Path:
    """Builds a frozen directory with a backend; returns the bundle."""
    with Staging(place) as staging:
        backend(name).build(folder, staging, BuildOptions())
        publish(staging)
    return place


def started(engine, sizes):
    """Layout, image tokens and state of a request, through the engine's own phases."""
    prepared = engine.prepare([rgb(size, seed) for seed, size in enumerate(sizes)])
    layout = engine.layout_of(engine.ids(asked(len(sizes))), prepared.planned)
    image_embeds = engine.embed(prepared)
    scores = engine.route(layout, image_embeds)
    return layout, image_embeds, engine.prefill(layout, image_embeds, scores, free_slots=STEPS)


def assert_answers_as_masked(vlm, engine, sizes):
    layout, _, state = started(engine, sizes)
    rows = [state.logits[0]]
    ids = [int(rows[0].argmax())]
    while len(ids) < STEPS:
        rows.append(engine.decode(state, ids[-1:])[0, 0])
        ids.append(int(rows[-1].argmax()))
    stock_layout, embeds = prompt_of(vlm, sizes)
    assert layout == stock_layout
    keep = torch.tensor([state.keep_indices])
    decision = PruningDecision(keep, state.kept_layers, engine.entry.pruning.prune_layer)
    answer = torch.tensor([ids[:-1]])
    wanted = masked_logits(vlm, embeds[None], prompt_batch([layout]), decision, answer)[0].numpy()
    assert np.abs(np.stack(rows) - wanted).max() <= TOLERANCE * wanted.std()
    assert wanted.argmax(axis=-1).tolist() == ids


def assert_image_tokens(vlm, engine, sizes):
    wanted = prompt_of(vlm, sizes)[1].numpy()
    got = engine.embed(engine.prepare([rgb(size, seed) for seed, size in enumerate(sizes)])).numpy()
    assert np.abs(got - wanted).max() <= TOLERANCE * wanted.std()
