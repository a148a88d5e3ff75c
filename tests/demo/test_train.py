"""The demo's trainer: a killed run, resumed, ends where an unbroken one ends."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allrounder.demo import train as trainer
from allrounder.demo.labels import dense_labels
from allrounder.demo.model import TINY, TINY_TILES, build_model, save_model
from allrounder.demo.scenes import GRID, Split, sample_scene
from allrounder.demo.tokenizer import build_tokenizer
from allrounder.demo.training.lessons import LESSONS, TILE_LESSONS, Learner, LessonName, with_holes
from allrounder.demo.training.packing import Packer

TOKENIZER = build_tokenizer()


def plan(lesson: LessonName) -> trainer.Plan:
    small = replace(trainer.default_plan(lesson, minutes=1.0, steps=4), images=2, questions=3)
    return replace(small, save_every_s=0.0, warmup_steps=2, bf16=False)


def fresh(lesson: LessonName) -> Learner:
    learner = Learner(TOKENIZER, TINY_TILES if lesson in TILE_LESSONS else TINY, seed=0)
    if lesson in TILE_LESSONS:
        learner.start_from(build_model(TOKENIZER, TINY, seed=4))
    return learner


def run(lesson: LessonName, out: Path) -> dict[str, torch.Tensor]:
    out.mkdir(exist_ok=True)
    learner = fresh(lesson)
    trainer.train_lesson(learner, Packer(TOKENIZER), plan(lesson), out)
    return learner.state_dict()


@pytest.mark.parametrize("lesson", [*LESSONS, *TILE_LESSONS])
def test_a_killed_run_resumes_exactly(lesson: LessonName, tmp_path, monkeypatch) -> None:
    unbroken = run(lesson, tmp_path / "unbroken")
    made = trainer.make_batch
    calls = 0

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(trainer, "make_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(lesson, tmp_path / "broken")
    assert (tmp_path / "broken" / f"{lesson}.pt").exists()
    resumed = run(lesson, tmp_path / "broken")
    assert calls == 5
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    before = fresh(lesson).state_dict()
    assert any(not torch.equal(before[name], unbroken[name]) for name in unbroken)


def test_a_lesson_changes_only_its_own_parts(tmp_path) -> None:
    before, after = fresh("see").state_dict(), run("see", tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("vision_tower" in name for name in changed)
    assert not any("language_model" in name or "label_embeddings" in name for name in changed)


def test_the_lesson_of_places_changes_the_first_layers_alone(tmp_path) -> None:
    before, after = fresh("place").state_dict(), run("place", tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.model.language_model.layers.") for name in changed)


def test_tiles_need_a_model_to_start_from(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        trainer.main(["--tiles", "--out", str(tmp_path)])
    assert "--start" in capsys.readouterr().err


def test_rate_warms_up_and_ends_at_nothing() -> None:
    long = trainer.Plan("read", 1.0, 100, 1, 1, 1e-3, 1e-3, warmup_steps=10)
    rates = [trainer.rate_factor(long, trainer.Progress(step)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 0.03


def test_holes_are_in_the_ground_alone() -> None:
    scenes = [sample_scene(Split.TRAIN, seed) for seed in range(3)]
    labels = torch.from_numpy(np.stack([dense_labels(scene).reshape(GRID * GRID, -1) for scene in scenes]))
    counts = set()
    for seed in range(20):
        places = with_holes(labels, seed)
        assert torch.equal(places, with_holes(labels, seed))
        assert bool((places.diff(dim=1) > 0).all())
        there = torch.zeros(labels.shape[:2], dtype=torch.bool).scatter(1, places, value=True)
        assert bool(there[labels[..., 0] > 0].all())
        counts.add(places.shape[1])
    assert GRID * GRID in counts
    assert len(counts) > 5


def test_a_lesson_can_start_from_a_saved_model(tmp_path) -> None:
    learner = Learner(TOKENIZER, TINY, seed=5)
    save_model(learner.model, TOKENIZER, tmp_path / "saved")
    idle = replace(plan("polish"), muon_rate=0.0, adam_rate=0.0, weight_decay=0.0)
    found = trainer.train(tmp_path / "out", [idle], TINY, torch.device("cpu"), tmp_path / "saved")
    for name, value in learner.model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], value, atol=0.02, rtol=0.01), name  # saved in bfloat16
