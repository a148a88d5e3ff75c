"""The demo's scenes, questions, labels, images and prompt files."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from allrounder.demo.digits import digit_images
from allrounder.demo.drawing import draw, to_pixels
from allrounder.demo.labels import CHANNELS, COARSE, FIRST_DIGIT, coarse_labels, coarse_positions, dense_labels
from allrounder.demo.prompts import examples, write_prompts
from allrounder.demo.questions import CLASSES, all_questions, sample_questions
from allrounder.demo.scenes import CELL, COLOURS, GRID, IMAGE_PX, KINDS, Digit, Scene, Shape, Split, sample_scene
from allrounder.prompts import read_prompts


def shape(kind: str, colour: str, cell: int) -> Shape:
    row, column = CELL * (cell // 3) + 2, CELL * (cell % 3) + 2
    return Shape(KINDS.index(kind), COLOURS.index(colour), cell, row, column)


HAND_MADE = Scene(
    Split.TRAIN,
    0,
    (shape("circle", "red", 0), shape("circle", "blue", 2), shape("ring", "orange", 4)),
    (Digit(4, 0, 6, 18, 2), Digit(0, 1, 6, 18, 5), Digit(7, 2, 7, 18, 8)),
)


def asked(scene: Scene) -> dict[str, str]:
    """Every question of many phrasings, with its answer."""
    answers: dict[str, str] = {}
    for seed in range(200):
        for question in all_questions(scene, np.random.default_rng(seed)):
            assert answers.setdefault(question.text, question.answer) == question.answer
    return answers


def test_answers_of_a_hand_made_scene() -> None:
    answers = asked(HAND_MADE)
    assert answers["what is the red object?"] == "a circle."
    assert answers["what is at the center?"] == "a ring."
    assert answers["what colour is the ring?"] == "it is orange."
    assert answers["where is the blue circle?"] == "at the top right."
    assert answers["how many circles are there?"] == "there are two."
    assert answers["how many shapes are there?"] == "there are three."
    assert answers["how many orange shapes are there?"] == "there is one."
    assert answers["how many diamonds are there?"] == "there are none."
    assert answers["read the digits."] == "4 0 7."


def test_ambiguous_questions_are_not_asked() -> None:
    answers = asked(HAND_MADE)
    assert "where is the circle?" not in answers
    assert "what colour is the circle?" not in answers
    assert "what is at the bottom left?" not in answers


@pytest.mark.parametrize("split", list(Split))
def test_same_seed_same_everything(split: Split) -> None:
    one, two = sample_scene(split, 5), sample_scene(split, 5)
    assert one == two
    assert np.array_equal(draw(one), draw(two))
    assert sample_questions(one, 8) == sample_questions(two, 8)
    assert sample_scene(split, 6) != one


def test_splits_share_no_scene_and_no_handwriting() -> None:
    images = [image.tobytes() for split in Split for each in digit_images(split) for image in each]
    assert len(images) == len(set(images)) == 1797
    assert all(min(len(images) for images in digit_images(split)) >= 10 for split in Split)
    scenes = [
        (sample_scene(split, seed).shapes, sample_scene(split, seed).digits) for split in Split for seed in range(50)
    ]
    assert len(set(scenes)) == len(scenes)


def test_objects_keep_apart() -> None:
    for seed in range(300):
        scene = sample_scene(Split.TRAIN, seed)
        used = np.zeros((GRID, GRID), int)
        for item in scene.shapes:
            used[item.row : item.row + 3, item.column : item.column + 3] += 1
            assert (item.row // CELL) * 3 + item.column // CELL == item.cell
        for digit in scene.digits:
            used[digit.row : digit.row + 2, digit.column : digit.column + 2] += 1
        assert used.max() == 1
        assert all(left.column < right.column for left, right in pairwise(scene.digits))
        assert len({(item.kind, item.colour) for item in scene.shapes}) == len(scene.shapes)


def test_labels_say_what_is_drawn() -> None:
    labels = dense_labels(HAND_MADE)
    assert labels.shape == (GRID, GRID, len(CHANNELS))
    assert labels[3, 3].tolist() == [1, 1, 0, 0, 1]
    assert labels[2, 2].tolist() == [1, 1, 0, 0, 0]
    assert labels[19, 9, 1:4].tolist() == [FIRST_DIGIT + 7, 7, 3]
    assert labels[..., 4].sum() == 6
    coarse = coarse_labels(HAND_MADE)
    assert coarse.shape == (COARSE, COARSE, len(CHANNELS))
    assert coarse[..., 4].sum() == 6
    assert sorted(set(coarse[..., 3].ravel())) == [0, 1, 2, 3]
    assert len(set(coarse_positions())) == COARSE * COARSE
    assert all((dense_labels(sample_scene(Split.TEST, s)).reshape(-1, 5) < CHANNELS).all() for s in range(50))


def test_digits_are_asked_evenly_and_pixels_are_normalised() -> None:
    pixels = to_pixels(draw(HAND_MADE)[None])
    assert pixels.shape == (1, 3, IMAGE_PX, IMAGE_PX)
    assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1
    kinds = [example.kind for example in examples(Split.TEST, 50)]
    assert all(kinds.count(kind) == 10 for kind in CLASSES)


def test_prompt_files(tmp_path) -> None:
    count = write_prompts(tmp_path, Split.VALIDATION, images=2, per_image=5)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert count == len(lines) == 10
    assert list(json.loads(lines[0])) == ["image", "question", "answer", "kind"]
    with Image.open(read_prompts(tmp_path / "prompts.jsonl").prompts[0].image) as image:
        assert np.array_equal(np.asarray(image), draw(sample_scene(Split.VALIDATION, 0)))
