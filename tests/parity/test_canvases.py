"""LLaVA-NeXT and LLaVA-OneVision: ids, tiles and image tokens of the stock code; removed equals masked; engines.

Images are wide, tall, tiny, of one tile and of many, one to three in a prompt, text between them where a template lets
it stand there.
"""

from __future__ import annotations

import functools
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conversations import conversation
from PIL import Image
from stock_processors import stock_processor

from allrounder.calib.layer_ranking import ranked
from allrounder.chat.messages import read_messages
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.checkpoint.build import write_checkpoint
from allrounder.engines.options import EngineOptions
from allrounder.errors import InputInvalid, VerificationFailed
from allrounder.export import vision
from allrounder.export.freezer import Freezer
from allrounder.export.verify.verify import verify
from allrounder.images import planning
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.layout import keep_counts
from allrounder.pruning import pruning_config
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.router.selection import keep_indices
from allrounder.runtime import Runtime
from allrounder.runtime import engine as engine_module
from allrounder.runtime.engine import open_engines
from allrounder.versions import EVERYTHING
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision
from allrounder.vlm.random.model import TINY_CANVASES, write_random_checkpoint

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 20
RANDOM = 200  # conversations
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


@pytest.fixture(scope="module")
def vlms(tmp_path_factory) -> dict[str, LoadedModel]:
    root = tmp_path_factory.mktemp("canvases")
    return {shape: load_model(write_random_checkpoint(root / shape, shape)) for shape in TINY_CANVASES}


def prompt_of(vlm: LoadedModel, sizes: list[tuple[int, int]]):
    """Layout and stock image tokens of a conversation about images of these sizes."""
    images = [rgb(size, seed) for seed, size in enumerate(sizes)]
    pixels = torch.from_numpy(pixel_values(vlm.images, prepare_images(vlm.images, images).tiles))
    (layout,) = model_layouts(vlm, [asked(len(sizes))], sizes=[sizes])
    return layout, PrunedModel(vlm).image_embeds(pixels, sizes)


@pytest.mark.parametrize("shape", TINY_CANVASES)
def test_ids_sizes_and_tiles_are_the_stock_processors(vlms, shape):
    """And so are the logits of the stock model on them: image tokens stand where the stock model puts them."""
    vlm, rng = vlms[shape], random.Random(shape)
    processor, seen = stock_processor(Path(vlm.source)), 0
    pruned = PrunedModel(vlm)
    for number in range(RANDOM):
        messages = resized(conversation(rng, strings=False), rng)
        images = [np.asarray(image.convert("RGB")) for image in read_messages(messages).images]
        sizes = [image.shape[:2] for image in images]
        (layout,) = model_layouts(vlm, [messages], sizes=[sizes])
        stock = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert list(layout.input_ids) == stock["input_ids"][0].tolist(), messages
        if not images:
            continue
        seen += 1
        tiles = prepare_images(vlm.images, images)
        assert stock["image_sizes"].tolist() == [list(size) for size in sizes]
        values = torch.from_numpy(pixel_values(vlm.images, tiles.tiles))
        counts = [planned.tiles for planned in tiles.planned]
        theirs = torch.cat([each[:count] for each, count in zip(stock["pixel_values"], counts, strict=True)])
        assert (values - theirs).abs().max() < 2e-6
        assert all((each[count:] == 0).all() for each, count in zip(stock["pixel_values"], counts, strict=True))
        if number % 10 == 0:
            with torch.no_grad():
                wanted = vlm.model(**stock, use_cache=False).logits[0, -1]
            embeds, prompt = pruned.image_embeds(values, sizes)[None], prompt_batch([layout])
            got = pruned.prefill(embeds, prompt, full_decision(vlm.spec, prompt)).logits[0]
            assert (got - wanted).abs().max() <= TOLERANCE * wanted.std()
    assert seen > RANDOM // 2


def resized(messages: list[dict], rng: random.Random) -> list[dict]:
    """The conversation with images of all aspects, noise for content."""
    for message in messages:
        for each in message["content"]:
            if each["type"] == "image":
                height, width = rng.choice(SIZES) if rng.random() < 0.3 else (rng.randint(8, 160), rng.randint(8, 160))
                each["image"] = Image.fromarray(rgb((height, width), rng.randrange(9)))
    return messages


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


@pytest.mark.parametrize("shape", TINY_CANVASES)
@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("rule", [Fraction(1, 4), 3, EVERYTHING], ids=str)
def test_removed_equals_masked(vlms, shape, prune_layer, rule):
    for number, sizes in enumerate(CASES):
        layers = (0, 1, 2 + number % 3)
        assert_removed_equals_masked(vlms[shape], sizes, rule, layers, prune_layer)


# --- engines ---------------------------------------------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def built(vlms, tmp_path_factory):
    """Gives router, frozen directory and engines of a shape in a backend."""

    @functools.cache
    def sources(shape):
        place = tmp_path_factory.mktemp(f"engines-{shape}")
        return place, *frozen(vlms[shape], place)

    @functools.cache
    def get(shape, name="onnxruntime"):
        place, router, folder = sources(shape)
        with Staging(place / name) as staging:
            backend(name).build(folder, staging, BuildOptions())
            publish(staging)
        bundle = open_bundle(place / name)
        return router, folder, open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))

    return get


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


@pytest.mark.parametrize("shape", TINY_CANVASES)
def test_engines_answer_as_the_masked_stock_model(vlms, built, shape):
    for engine in built(shape)[2]:
        for sizes in CASES:
            assert_answers_as_masked(vlms[shape], engine, sizes)


@pytest.mark.parametrize("shape", ["next-clip-mistral", "onevision-siglip-qwen2"])
def test_openvino_answers_as_the_masked_stock_model(vlms, built, shape):
    for engine in built(shape, "openvino")[2]:
        for sizes in CASES[::3]:
            assert_answers_as_masked(vlms[shape], engine, sizes)


@pytest.mark.parametrize("shape", TINY_CANVASES)
def test_the_runtime_answers_with_the_same_tokens(vlms, built, shape):
    vlm, place = vlms[shape], built(shape)[2][0].bundle.path
    with Runtime.load(place, version="par-lite") as runtime:
        for sizes in CASES:
            images = iter([Image.fromarray(rgb(size, seed)) for seed, size in enumerate(sizes)])
            messages = asked(len(sizes))
            for each in (each for turn in messages for each in turn["content"] if each["type"] == "image"):
                each["image"] = next(images)
            answer = runtime.chat(messages, max_new_tokens=STEPS)
            layout, embeds = prompt_of(vlm, sizes)
            assert answer.usage.image_tokens == layout.image_tokens
            prune_layer = runtime.entry.pruning.prune_layer
            decision = PruningDecision(torch.tensor([answer.keep_indices]), answer.kept_layers, prune_layer)
            ids = torch.tensor([answer.token_ids[:-1]], dtype=torch.int64)
            wanted = masked_logits(vlm, embeds[None], prompt_batch([layout]), decision, ids)[0]
            assert wanted.argmax(dim=-1).tolist() == list(answer.token_ids)


def assert_image_tokens(vlm, engine, sizes):
    wanted = prompt_of(vlm, sizes)[1].numpy()
    got = engine.embed(engine.prepare([rgb(size, seed) for seed, size in enumerate(sizes)])).numpy()
    assert np.abs(got - wanted).max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize("shape", TINY_CANVASES)
def test_image_tokens_of_the_vision_graph_are_the_stock_ones(vlms, built, shape):
    for sizes in CASES:
        assert_image_tokens(vlms[shape], built(shape)[2][0], sizes)


@pytest.mark.parametrize("shape", ["next-clip-mistral", "onevision-siglip-qwen2"])
def test_graphs_are_verified(vlms, built, shape):
    router, folder, _ = built(shape)
    assert verify(folder, vlms[shape].source, router).comparisons > 50


@pytest.mark.parametrize("shape", ["next-clip-mistral", "onevision-siglip-qwen2"])
def test_written_checkpoints_are_stock_models_of_the_family(vlms, built, tmp_path, shape):
    vlm, (_, folder, engines) = vlms[shape], built(shape)
    pruning = pruning_config("par-nano", layers=vlm.spec.decoder.layers, prune_layer=0, layer_policy="static")
    (entry,) = (each.entry for each in engines if each.entry.pruning.key == pruning.key)
    write_checkpoint(folder, entry, tmp_path / "checkpoint")
    written, report = type(vlm.model).from_pretrained(
        str(tmp_path / "checkpoint"), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(written.model.image_newline, vlm.model.model.image_newline)
    assert len(written.model.language_model.layers) == len(entry.pruning.kept_layers)


# --- planted faults: the comparisons above must see them -------------------------------------------------------------


def without_newlines(graph, rows, dtype, hidden):
    """The vision graph as it is, zeros for the learned row."""
    real = graph.weight
    graph.weight = lambda name: (
        graph.constant(np.zeros(hidden, np.float32), "none") if name.endswith("image_newline") else real(name)
    )
    return LAID_OUT(graph, rows, dtype, hidden)


LAID_OUT = vision._laid_out


def test_a_vision_graph_without_the_newline_is_found(vlms, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "_laid_out", without_newlines)
    vlm = vlms["next-clip-mistral"]
    router, folder = frozen(vlm, tmp_path)
    with pytest.raises(VerificationFailed, match="image_embeds"):
        verify(folder, vlm.source, router)


def test_padding_off_by_one_is_found(vlms, monkeypatch):
    real, vlm, sizes = planning._padding, vlms["next-clip-mistral"], [(20, 200)]

    def off_by_one(size, grid):
        above, before = real(size, grid)
        return max(above - 1, 0), max(before - 1, 0)

    assert_removed_equals_masked(vlm, sizes, EVERYTHING, (0, 1, 2), 2)
    monkeypatch.setattr(planning, "_padding", off_by_one)
    with pytest.raises(InputInvalid, match="image tokens and prompts do not fit"):
        assert_removed_equals_masked(vlm, sizes, EVERYTHING, (0, 1, 2), 2)


def test_rows_off_by_one_are_found(vlms, built, monkeypatch):
    """As many image tokens, those of the canvas each taken from the row of tokens before its own."""
    real, shape = engine_module.token_sources, "onevision-siglip-qwen2"

    def off_by_one(plan, planned):
        sources = real(plan, planned)
        newline = sources.rows.max()
        return sources._replace(rows=np.where(sources.rows == newline, newline, np.maximum(sources.rows - 1, 0)))

    monkeypatch.setattr(engine_module, "token_sources", off_by_one)
    with pytest.raises(AssertionError):
        assert_image_tokens(vlms[shape], built(shape)[2][0], SIZES[:1])
