"""`allrounder train-router`, from a prompts file to a router directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allrounder.commands.cli import run_command
from allrounder.router.checkpoint import RECORD, WEIGHTS, load_router, read_record
from allrounder.router.training.examples import FileExamples, SceneExamples
from allrounder.vlm.model import load_model
from allrounder.vlm.random.model import Shape, write_random_checkpoint

SHAPE = Shape(vision={"image_size": 56})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"), SHAPE)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    lines = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "question": f"what is number {index}?"}))
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder / "prompts.jsonl"


def call(model, out, *more) -> int:
    return run_command("train-router", ["--model", str(model), "--out", str(out), *map(str, more)])


def test_it_trains_and_reports(model, prompts, tmp_path, capsys):
    out = tmp_path / "router"
    code = call(model, out, "--prompts", prompts, "--steps", 3, "--batch", 2, "--set", "attention=bidirectional")
    assert code == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["router"], report["steps"]) == (str(out), 3)
    assert list(report["versions"]) == ["par-max", "par-base", "par-lite", "par-nano"]
    assert all(figures["divergence"] > 0 for figures in report["versions"].values())
    assert {RECORD, WEIGHTS} <= {path.name for path in out.iterdir()}
    record = read_record(out)
    assert (record.attention, record.training["batch"]) == ("bidirectional", 2)
    assert "prompts.jsonl" in record.training["data"]
    vlm = load_model(model)
    load_router(out, model_spec=vlm.spec, model_digest=vlm.digest)
    assert call(model, out, "--prompts", prompts, "--steps", 3, "--batch", 2) == 2
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--prompts"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--set", "window"), "NAME=VALUE"),
        (("--set", "surprise=1"), "surprise"),
        (("--set", "attention=luck"), "attention"),
        (("--set", "learning_rate=-1"), "learning_rate"),
        (("--batch", 0), "batch"),
        (("--steps", -1), "steps"),
        (("--minutes", 0), "minutes"),
        (("--device", "abacus"), "abacus"),
        (("--device", "cuda:99"), "--device cpu"),
    ],
)
def test_wrong_arguments_are_refused(model, tmp_path, capsys, arguments, said):
    assert call(model, tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_prompts_are_named_and_the_rest_is_used(model, prompts, tmp_path, capsys):
    folder = prompts.parent
    mixed = folder / "mixed.jsonl"
    good = prompts.read_text().splitlines()
    (folder / "text.png").write_text("no image")
    bad = ["", good[0], json.dumps({"image": "text.png", "question": "what?"})]
    mixed.write_text("\n".join([*good[:6], *bad]))
    assert call(model, tmp_path / "out", "--prompts", mixed, "--steps", 1, "--batch", 2) == 0
    said = capsys.readouterr().err
    for number, remedy in ((7, "remove it"), (8, "ask something else"), (9, "PNG or JPEG")):
        assert any(f"line {number}:" in line and remedy in line for line in said.splitlines())
    assert "6 prompts are used, 3 left out" in said
    assert "memory: about" in said
    mixed.write_text("\n".join(bad[:1] + bad[2:]))
    assert call(model, tmp_path / "none", "--prompts", mixed, "--steps", 1) == 2
    assert "nothing in it can be used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_folder_and_a_start(model, tmp_path, capsys):
    folder, first, second = tmp_path / "folder", tmp_path / "first", tmp_path / "second"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((20, 20, 3), index * 50, np.uint8)).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text("what is this?\nwhere?")
    usual = ("--prompts", folder, "--steps", 1, "--batch", 2)
    assert call(model, first, *usual) == 0
    other = write_random_checkpoint(tmp_path / "other", SHAPE, seed=9)
    assert call(other, second, *usual, "--init", first) == 0
    facts = read_record(second).training
    assert facts["init_weights"] == read_record(first).weights.sha256
    assert (facts["seed"], facts["accumulate"], facts["bfloat16"]) == (0, 1, False)
    capsys.readouterr()
    assert call(other, first, *usual, "--init", first) == 2
    assert "another --out" in capsys.readouterr().err
    assert call(other, tmp_path / "third", *usual, "--init", first, "--set", "attention=bidirectional") == 2
    assert "--set attention=causal" in capsys.readouterr().err
    assert call(other, tmp_path / "third", *usual, "--init", folder) == 2
    wider = write_random_checkpoint(
        tmp_path / "wider", Shape(vision={"image_size": 56}, text={"intermediate_size": 96})
    )
    assert call(wider, tmp_path / "third", *usual, "--init", first) == 2
    assert "another shape" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_a_single_prompt_is_not_enough(model, prompts, tmp_path, capsys):
    lonely = prompts.parent / "lonely.jsonl"
    lonely.write_text(prompts.read_text().splitlines()[0])
    assert call(model, tmp_path / "out", "--prompts", lonely, "--steps", 1) == 2
    assert "validate" in capsys.readouterr().err


def test_examples_of_a_file_are_its_images(prompts):
    from allrounder.errors import ImageInvalid
    from allrounder.prompts import read_prompts

    tail = FileExamples(read_prompts(prompts))
    assert len(tail) == 12
    assert tail[11].question == tail.question(11) == "what is number 11?"
    assert [tail.image(index) for index in range(12)] == list(range(12))
    assert tail[1].image.shape == (30, 40, 3)
    assert tail[1].image.dtype == np.uint8
    broken = read_prompts(prompts)
    broken = broken._replace(prompts=(broken.prompts[0]._replace(image=prompts),))
    with pytest.raises(ImageInvalid, match="not an image"):
        FileExamples(broken)[0]


def test_drawn_scenes_are_the_same_by_index():
    from allrounder.demo.scenes import Split

    scenes = SceneExamples(Split.TRAIN, 5, 3, 4)
    assert len(scenes) == 12
    assert len({scenes[index].question for index in range(4)}) > 1
    assert all(np.array_equal(scenes[0].image, scenes[index].image) for index in range(1, 4))
    assert not np.array_equal(scenes[0].image, scenes[4].image)
    again = SceneExamples(Split.TRAIN, 6, 1, 4)[1]
    assert np.array_equal(scenes[5].image, again.image)
    assert scenes[5].question == again.question
