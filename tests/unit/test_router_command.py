"""`allrounder train-router`, from a prompts file to a router directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allrounder.commands.cli import run_command
from allrounder.hosts.host import load_host
from allrounder.hosts.random import Shape, write_random_checkpoint
from allrounder.router.checkpoint import RECORD, WEIGHTS, load_router, read_record
from allrounder.router.examples import FileExamples, SceneExamples

SHAPE = Shape(vision={"image_size": 56})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("host"), SHAPE)


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
    host = load_host(model)
    load_router(out, host_spec=host.spec, host_digest=host.digest)
    assert call(model, out, "--prompts", prompts, "--steps", 3, "--batch", 2) == 2
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--prompts"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--set", "flows"), "NAME=VALUE"),
        (("--set", "surprise=1"), "surprise"),
        (("--set", "objective=luck"), "objective"),
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


def test_a_single_prompt_is_not_enough(model, prompts, tmp_path, capsys):
    lonely = prompts.parent / "lonely.jsonl"
    lonely.write_text(prompts.read_text().splitlines()[0])
    assert call(model, tmp_path / "out", "--prompts", lonely, "--steps", 1) == 2
    assert "validate" in capsys.readouterr().err


def test_examples_of_a_file_are_its_pictures(prompts):
    from allrounder.errors import ImageInvalid
    from allrounder.prompts import read_prompts

    tail = FileExamples(read_prompts(prompts))
    assert len(tail) == 12
    assert tail[11].question == tail.question(11) == "what is number 11?"
    assert [tail.picture(index) for index in range(12)] == list(range(12))
    assert tail[1].image.shape == (30, 40, 3)
    assert tail[1].image.dtype == np.uint8
    broken = read_prompts(prompts)
    broken = broken._replace(prompts=(broken.prompts[0]._replace(image=prompts),))
    with pytest.raises(ImageInvalid, match="not a picture"):
        FileExamples(broken)[0]


def test_drawn_scenes_are_the_same_by_index():
    from allrounder.hosts.demo.scenes import Split

    scenes = SceneExamples(Split.TRAIN, 5, 3, 4)
    assert len(scenes) == 12
    assert len({scenes[index].question for index in range(4)}) > 1
    assert all(np.array_equal(scenes[0].image, scenes[index].image) for index in range(1, 4))
    assert not np.array_equal(scenes[0].image, scenes[4].image)
    again = SceneExamples(Split.TRAIN, 6, 1, 4)[1]
    assert np.array_equal(scenes[5].image, again.image)
    assert scenes[5].question == again.question
