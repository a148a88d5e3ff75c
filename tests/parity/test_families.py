"""Every family whose images are tiles: ids, tiles and image tokens of the stock code; removed equals masked; engines.

It runs over `TINY_TILES`, so a family gets it by its shapes in `vlm/random/shapes.py`.
"""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conversations import conversation
from PIL import Image
from stock_processors import stock_processor
from tile_models import (
    CASES,
    SIZES,
    STEPS,
    TOLERANCE,
    asked,
    assert_answers_as_masked,
    assert_image_tokens,
    assert_removed_equals_masked,
    prompt_of,
    rgb,
)

from allrounder.chat.messages import read_messages
from allrounder.engines.checkpoint.build import write_checkpoint
from allrounder.export.verify.verify import verify
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.pruning import pruning_config
from allrounder.runtime import Runtime
from allrounder.runtime.measure import default_workload, make_request
from allrounder.versions import EVERYTHING
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision
from allrounder.vlm.random.model import SHAPES, TINY_TILES, write_random_checkpoint

RANDOM = 200  # conversations
FIRST = tuple({SHAPES[shape].model_type: shape for shape in reversed(TINY_TILES)}.values())  # of each family


@pytest.mark.parametrize("shape", TINY_TILES)
def test_ids_sizes_and_tiles_are_the_stock_processors(vlms, shape):
    """And so are the logits of the stock model on them: image tokens stand where the stock model puts them."""
    vlm, rng = vlms(shape), random.Random(shape)
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
        assert stock.get("image_sizes", torch.tensor(sizes)).tolist() == [list(size) for size in sizes]
        values = torch.from_numpy(pixel_values(vlm.images, tiles.tiles))
        theirs = stock_tiles(stock["pixel_values"], [planned.tiles for planned in tiles.planned])
        assert values.shape == theirs.shape
        assert (values - theirs).abs().max() < 2e-6
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


def stock_tiles(values: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Tiles [tiles, 3, S, S] of stock ones, which may be padded with zeros to equal numbers for each image."""
    if values.ndim == 4:
        return values
    if len(values) == 1 != len(counts):  # Idefics3 and SmolVLM: all tiles of one prompt
        return values[0]
    padded = list(zip(values, counts, strict=True))
    assert all((each[count:] == 0).all() for each, count in padded)
    return torch.cat([each[:count] for each, count in padded])


@pytest.mark.parametrize("shape", TINY_TILES)
@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("rule", [Fraction(1, 4), 3, EVERYTHING], ids=str)
def test_removed_equals_masked(vlms, shape, prune_layer, rule):
    for number, sizes in enumerate(CASES):
        layers = (0, 1, 2 + number % 3)
        assert_removed_equals_masked(vlms(shape), sizes, rule, layers, prune_layer)


@pytest.mark.parametrize("shape", TINY_TILES)
def test_all_layouts_of_names_are_the_same_model(vlms, shape, tmp_path):
    """As checkpoints on the hub have them, as transformers' modules do, and as `save_pretrained` writes them today."""
    vlm = vlms(shape)
    newer = write_random_checkpoint(tmp_path / "newer", shape, layout="newer")
    ours = vlm.model.state_dict()
    others = load_model(newer).model.state_dict()
    assert ours.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in ours.items())
    vlm.model.save_pretrained(tmp_path / "saved")
    saved, found = Checkpoint(tmp_path / "saved"), Checkpoint(vlm.source)
    assert saved.names() == found.names()
    assert all(torch.equal(saved.read(name), found.read(name)) for name in found.names())


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", TINY_TILES)
def test_engines_answer_as_the_masked_stock_model(vlms, built, shape):
    for engine in built(shape)[2]:
        for sizes in CASES:
            assert_answers_as_masked(vlms(shape), engine, sizes)


@pytest.mark.parametrize("shape", FIRST)
def test_openvino_answers_as_the_masked_stock_model(vlms, built, shape):
    for engine in built(shape, "openvino")[2]:
        for sizes in CASES[::3]:
            assert_answers_as_masked(vlms(shape), engine, sizes)


@pytest.mark.parametrize("shape", TINY_TILES)
def test_the_runtime_answers_with_the_same_tokens(vlms, built, shape):
    vlm, place = vlms(shape), built(shape)[2][0].bundle.path
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


@pytest.mark.parametrize("shape", TINY_TILES)
def test_what_is_timed_is_one_image_and_as_much_text_as_stated(vlms, built, shape):
    """Marks between an image's tokens are text."""
    engine = built(shape)[2][0]
    for text in (None, 200):
        workload = default_workload(engine, text_tokens=text)
        request = make_request(engine, workload)
        assert request.layout.text_tokens == workload.text_tokens
        assert request.layout.image_tokens == len(engine.embed(engine.prepare([request.rgb])).numpy())


@pytest.mark.parametrize("shape", TINY_TILES)
def test_image_tokens_of_the_vision_graph_are_the_stock_ones(vlms, built, shape):
    for sizes in CASES:
        assert_image_tokens(vlms(shape), built(shape)[2][0], sizes)


@pytest.mark.parametrize("shape", TINY_TILES)
def test_graphs_are_verified(vlms, built, shape):
    router, folder, _ = built(shape)
    assert verify(folder, vlms(shape).source, router).comparisons > 50


@pytest.mark.parametrize("shape", FIRST)
def test_written_checkpoints_are_stock_models_of_the_family(vlms, built, tmp_path, shape):
    vlm, (_, folder, engines) = vlms(shape), built(shape)
    pruning = pruning_config("par-nano", layers=vlm.spec.decoder.layers, prune_layer=0, layer_policy="static")
    (entry,) = (each.entry for each in engines if each.entry.pruning.key == pruning.key)
    write_checkpoint(folder, entry, tmp_path / "checkpoint")
    written, report = type(vlm.model).from_pretrained(
        str(tmp_path / "checkpoint"), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    whole, kept = vlm.model.state_dict(), entry.pruning.kept_layers
    decoder = FAMILIES[vlm.spec.model_type].modules.decoder
    assert len(kept) == len(getattr(written.model, decoder).layers) < vlm.spec.decoder.layers
    for name, tensor in written.state_dict().items():
        front, found, number = name.partition(f"{decoder}.layers.")
        layer, _, rest = number.partition(".")
        assert torch.equal(tensor, whole[f"{front}{found}{kept[int(layer)]}.{rest}" if found else name]), name
