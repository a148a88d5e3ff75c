"""The demo model of tiles: windows, their tiles and tokens, training beside the stock model and processor."""

from functools import cache

import numpy as np
import pytest
import torch
from stock_processors import stock_processor
from transformers import PreTrainedTokenizerFast

from allrounder.demo.drawing import draw
from allrounder.demo.evaluate import TileProcessor
from allrounder.demo.labels import dense_labels
from allrounder.demo.model import TINY, TINY_TILES, build_model, save_model
from allrounder.demo.questions import all_questions, sample_questions
from allrounder.demo.scenes import CELL, PLACES, WINDOWS, WORLD, Split, Window, sample_scene
from allrounder.demo.tiles import cut, image_tokens
from allrounder.demo.tokenizer import IMAGE, build_tokenizer, render_prompt
from allrounder.demo.training.lessons import Learner, tile_batch
from allrounder.demo.training.packing import Packer
from allrounder.demo.training.place import world_places


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_cells_are_called_by_where_they_lie() -> None:
    assert [PLACES[cell] for cell in Window(1, 1).cells] == ["center"]
    assert [PLACES[cell] for cell in Window(1, 2).cells] == ["middle left", "middle right"]
    assert [PLACES[cell] for cell in Window(3, 1).cells] == ["top middle", "center", "bottom middle"]
    assert [PLACES[cell] for cell in Window(2, 2).cells] == ["top left", "top right", "bottom left", "bottom right"]
    assert WORLD.cells == tuple(range(9))


@pytest.mark.parametrize("window", WINDOWS)
def test_objects_of_windows_keep_apart_and_are_where_they_are_said_to_be(window: Window) -> None:
    for seed in range(60):
        scene = sample_scene(Split.TRAIN, seed, window)
        used = np.zeros((CELL * window.rows, CELL * window.columns), int)
        for item, side in [*((shape, 3) for shape in scene.shapes), *((digit, 2) for digit in scene.digits)]:
            block = used[item.row : item.row + side, item.column : item.column + side]
            block += 1
            assert block.shape == (side, side)
            for row, column in ((item.row, item.column), (item.row + side - 1, item.column + side - 1)):
                assert window.cells[window.columns * (row // CELL) + column // CELL] == item.cell
        assert used.max() == 1
        labels = dense_labels(scene)
        assert labels.shape[:2] == used.shape
        assert np.array_equal(labels[..., 1] > 0, used > 0)
        assert sorted(set(labels[..., 2].ravel())) == sorted(window.cells)
        assert draw(scene).shape == (window.height_px, window.width_px, 3)


def test_a_cell_with_two_things_is_not_asked_about() -> None:
    for seed in range(60):
        scene = sample_scene(Split.TRAIN, seed, WINDOWS[seed % len(WINDOWS)])
        held = [item.cell for item in (*scene.shapes, *scene.digits[:1])]
        crowded = {PLACES[cell] for cell in held if held.count(cell) > 1}
        asked = [question.text for question in all_questions(scene, np.random.default_rng(seed))]
        assert not any(f"{start} the {place}?" in text for text in asked for place in crowded for start in ("at", "in"))


def test_an_image_that_is_not_made_of_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="64x100"):
        cut(np.zeros((64, 100, 3), np.uint8))


def test_places_in_the_world() -> None:
    assert torch.equal(world_places(WORLD), torch.arange(576))
    assert world_places(Window(1, 1))[0] == 8 * 24 + 8
    assert world_places(Window(2, 2))[[0, 8, 8 * 16]].tolist() == [0, 16, 16 * 24]


@torch.inference_mode()
def test_training_sees_what_the_stock_processor_and_model_see(tmp_path) -> None:
    """Packed questions about tiles have the logits of the stock model on the stock processor's output."""
    learner = Learner(tokenizer(), TINY_TILES, seed=3).eval()
    save_model(build_model(tokenizer(), TINY_TILES, seed=3), tokenizer(), tmp_path)
    stock, processor = build_model(tokenizer(), TINY_TILES, seed=3).eval(), stock_processor(tmp_path)
    ours = TileProcessor.from_pretrained(tmp_path)
    packer = Packer(tokenizer())
    for number, window in enumerate(WINDOWS):
        scene = sample_scene(Split.TRAIN, number, window)
        batch = tile_batch(packer, range(number, number + 1), 2)
        assert batch.window == window
        assert batch.text is not None
        assert batch.pixels is not None
        image_embeds = learner.canvas_embeds(batch.pixels, window)
        kept = {}
        hook = learner.model.model.language_model.register_forward_hook(
            lambda _m, _i, out, kept=kept: kept.update(out=out)
        )
        learner.answer_loss(image_embeds, torch.arange(image_embeds.shape[1])[None], batch.text)
        hook.remove()
        start = batch.text.head.shape[0] + image_embeds.shape[1]
        packed = learner.model.lm_head(kept["out"].last_hidden_state[:, start:])[0]
        for segment, question in enumerate(sample_questions(scene, 2), 1):
            text = f"{render_prompt(question.text)} {question.answer}"
            inputs = processor(images=scene_image(scene), text=text, return_tensors="pt")
            mine = ours([scene_image(scene)], [text], return_tensors="pt")
            assert torch.equal(inputs["input_ids"], mine["input_ids"])
            assert torch.equal(inputs["pixel_values"], mine["pixel_values"])
            torch.testing.assert_close(inputs["pixel_values"], batch.pixels, rtol=0, atol=1e-6)
            assert int((inputs["input_ids"] == tokenizer().convert_tokens_to_ids(IMAGE)).sum()) == image_tokens(window)
            single = stock(**inputs).logits[0, start:]
            torch.testing.assert_close(packed[batch.text.segments[0] == segment], single, rtol=1e-4, atol=1e-4)


def scene_image(scene):
    from PIL import Image

    return Image.fromarray(draw(scene))


def test_a_learner_of_tiles_starts_from_a_llava() -> None:
    saved, learner = build_model(tokenizer(), TINY, seed=1), Learner(tokenizer(), TINY_TILES, seed=2)
    newline = learner.model.model.image_newline.clone()
    learner.start_from(saved)
    ours, theirs = learner.model.state_dict(), saved.state_dict()
    positions = "model.vision_tower.embeddings.position_embedding.weight"
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != positions)
    assert torch.equal(ours[positions][[0, 1, 64]], theirs[positions][[0, 1 + 24 * 8 + 8, 1 + 24 * 15 + 15]])
    assert torch.equal(ours["model.image_newline"], newline)
    assert learner.teacher is not None
    assert torch.equal(learner.teacher.get_buffer("cells")[4], torch.zeros(TINY.hidden))
    assert bool(learner.teacher.get_buffer("cells")[0].any())
