"""What of a prompts file or folder is learned from: everything usable, and every complaint names its place."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allrounder.errors import PromptsInvalid
from allrounder.prompts import Prompt, PromptSet, Unusable, read_prompts, read_usable
from allrounder.router.training.usable import checks, held_out
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.random.model import Shape, write_random_checkpoint


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> LoadedModel:
    shape = Shape(vision={"image_size": 56}, text={"max_position_embeddings": 128})
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), shape))


def image(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return path


def line(image: str, question: str) -> str:
    return json.dumps({"image": image, "question": question})


def test_bad_lines_are_named_and_left_out(vlm, tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png", 1)
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    file = tmp_path / "prompts.jsonl"
    bad = {
        2: ("", "line is empty", "remove it"),
        3: (line("nowhere.png", "what?"), "nowhere.png", "path"),
        4: (line("torn.png", "what?"), "torn.png", "PNG or JPEG"),
        5: (line("text.png", "what?"), "text.png", "PNG or JPEG"),
        6: (line("./a.png", "what?"), "line 1", "something else"),
        7: (line("a.png", " "), "question is empty", "remove"),
        8: (line("a.png", "why " * 200), "context leaves", "shorten"),
        9: ('{"image": "a.png"', "truncated", '"question"'),
        10: ('{"image": "a.png", "question": "how?", "colour": 1}', "colour", '"question"'),
        11: (line("x" * 5000, "what?"), "", ""),
    }
    lines = [line("a.png", "what?"), *(text for text, _, _ in bad.values()), line("b.png", "what?")]
    file.write_text("\n".join(lines) + "\n")
    prompts, complaints = read_usable(file, checks(vlm, answer_tokens=16))
    assert [(prompt.image.name, prompt.question) for prompt in prompts.prompts] == [
        ("a.png", "what?"),
        ("b.png", "what?"),
    ]
    assert [complaint.where for complaint in complaints] == [f"line {number}" for number in bad]
    for complaint, (_, problem, remedy) in zip(complaints, bad.values(), strict=True):
        assert problem in complaint.problem
        assert remedy in complaint.remedy
        assert complaint.where in str(complaint)
    with pytest.raises(PromptsInvalid, match="unusable lines"):
        read_prompts(file)


def test_the_name_is_of_what_is_used(tmp_path):
    image(tmp_path / "a.png")
    file = tmp_path / "prompts.jsonl"
    file.write_text(line("a.png", "what?"))
    name = read_usable(file)[0].name
    file.write_text("\n\nnonsense\n" + line("a.png", "what?") + "\n" + line("a.png", "what?"))
    assert read_usable(file)[0].name == name, "what was left out does not count"
    file.write_text(line("a.png", "which?"))
    other = read_usable(file)[0].name
    image(tmp_path / "a.png", 1)
    assert len({name, other, read_usable(file)[0].name}) == 3


def test_nothing_left_is_an_error(vlm, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n\n")
    with pytest.raises(PromptsInvalid, match=r"nothing in it.*line 1: the line is empty"):
        read_usable(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptsInvalid, match="cannot be read"):
        read_usable(file)
    with pytest.raises(PromptsInvalid, match="cannot be read"):
        read_usable(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptsInvalid, match="no prompts in this folder"):
        read_usable(tmp_path / "empty")


def test_a_folder_of_images_and_texts(tmp_path):
    for seed, name in enumerate(("a.png", "b.JPG", "lonely.png", "broken.png")):
        image(tmp_path / name, seed)
    (tmp_path / "a.txt").write_text("\ufeffwhat?\n  how many? \n\nwhat?\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("where?")
    (tmp_path / "orphan.txt").write_text("who?")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "notes.md").write_text("not a question")
    prompts, complaints = read_usable(tmp_path)
    found = [(prompt.image.name, prompt.question) for prompt in prompts.prompts]
    assert found == [("a.png", "what?"), ("a.png", "how many?"), ("b.JPG", "where?")]
    assert prompts.name.startswith(tmp_path.name)
    said = {complaint.where: complaint for complaint in complaints}
    assert set(said) == {"a.txt line 3", "a.txt line 4", "lonely.png", "orphan.txt", "broken.txt"}
    assert "a.txt line 1" in said["a.txt line 4"].problem
    assert "lonely.txt" in said["lonely.png"].remedy


def test_a_folder_with_a_prompts_file_is_that_file(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("not this one")
    (tmp_path / "prompts.jsonl").write_text(line("a.png", "this one?"))
    prompts, complaints = read_usable(tmp_path)
    assert [prompt.question for prompt in prompts.prompts] == ["this one?"]
    assert not complaints


def test_whole_images_are_held_out():
    def album(*names):
        return PromptSet("set", tuple(Prompt(Path(name), f"{place}?", None, "") for place, name in enumerate(names)))

    teaching, validating = held_out(album(*"aaabbbcccd", *"abcabcabcd"), one_in=10)
    assert {prompt.image.name for prompt in validating.prompts} == {"d"}
    assert len(validating.prompts) == 2
    assert len(teaching.prompts) == 18
    teaching, validating = held_out(album("a", *"bbbbbbbbb"), one_in=10)
    assert ({prompt.image.name for prompt in teaching.prompts}, len(validating.prompts)) == ({"a"}, 9)
    with pytest.raises(PromptsInvalid, match="validate"):
        held_out(album(*"aaaa"), one_in=10)


def test_a_question_that_just_fits_is_used(vlm, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    check = checks(vlm, answer_tokens=16)
    fits = 0
    for length in range(200):
        with suppress(Unusable):
            check(Prompt(tmp_path / "a.png", "x " * length + "?", None, ""))
            fits = length
    assert 10 < fits < 120
