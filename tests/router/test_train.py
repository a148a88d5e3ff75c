"""Training on tiny random models: it learns, it resumes exactly, it leaves the model alone."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from allrounder.errors import InputInvalid, RouterMismatch
from allrounder.router.checkpoint import load_router, read_record
from allrounder.router.decisions import Quota
from allrounder.router.model import Scores
from allrounder.router.training import train as train_module
from allrounder.router.training.examples import Example
from allrounder.router.training.losses import Learner, Moment, batch_loss, gate_loss
from allrounder.router.training.measure import measure, random_scorer, router_scorer
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.order import Hard, Walk
from allrounder.router.training.references import References
from allrounder.router.training.start import first_router, read_start
from allrounder.router.training.train import RunOptions, train, weights_digest
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.random.model import Shape, write_random_checkpoint

SHAPE = Shape(text={"num_hidden_layers": 6}, vision={"image_size": 84})  # 36 image tokens
TINY = TrainOptions(
    prune_layer=1,
    batch=4,
    learning_rate=1e-2,
    budgets=("par-lite",),
    warmup=0.0,
    token_noise=0.3,
    layer_noise=0.3,
)
SHORT = 4  # answer tokens


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Images:
    """Random images with one question; half of each image is black."""

    def __init__(self, first: int, count: int):
        self.name, self._first, self._count = f"images {first}", first, count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        pixels = np.random.default_rng(self._first + index).integers(0, 256, (40, 40, 3), np.uint8)
        pixels[:, 20:] = 0
        return Example(pixels, self.question(index))

    def image(self, index):
        return index

    def question(self, index):
        return ["what is this?", "where is it?"][index % 2]


DATA = (Images(0, 12), Images(100, 4))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), SHAPE))


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]


def weights(out: Path, vlm: LoadedModel) -> dict[str, torch.Tensor]:
    return load_router(out, model_spec=vlm.spec, model_digest=vlm.digest).state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 2.0},
        {"window": 4.0},
        {"token_gates": "soft", "attention": "bidirectional"},
        {"budgets": ("par-base", "par-lite", "par-nano"), "budgets_per_step": 3},
    ],
)
def test_something_is_learned(vlm, tmp_path, changes):
    options = msgspec.structs.replace(TINY, **changes)
    result = train(vlm, (DATA[1], DATA[1]), tmp_path, options, RunOptions(steps=20, answer_tokens=SHORT))
    log = [line for line in lines(tmp_path) if "loss" in line]
    first, last = (sum(line["loss"] for line in part) / 5 for part in (log[:5], log[-5:]))
    assert last < first
    assert [line["step"] for line in log] == list(range(1, 21))
    assert result.steps == 20
    assert read_record(tmp_path).training["window"] == options.window


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budgets": ("par-lite", "par-nano"), "budgets_per_step": 2, "accumulate": 2},
        {"scope": "image", "attention": "bidirectional"},
    ],
)
def test_divergence_falls(vlm, tmp_path, changes):
    """That of the decision that the scores alone give, on what was learned."""
    options = msgspec.structs.replace(TINY, **changes)
    references = References(vlm, DATA[1], SHORT)

    def found(router):
        return measure(vlm, references, router_scorer(router), [Quota(9, 4)], 1)[0].divergence

    train(vlm, (DATA[1], DATA[1]), tmp_path, options, RunOptions(steps=20, answer_tokens=SHORT))
    learned = load_router(tmp_path, model_spec=vlm.spec, model_digest=vlm.digest)
    assert found(learned) < 0.98 * found(first_router(vlm, options, None))


def test_several_budgets_are_the_mean_of_each(vlm):
    """Value and gradient, for an objective without chance."""
    options = msgspec.structs.replace(TINY, token_noise=0.0, layer_noise=0.0)
    router = first_router(vlm, options, None)
    batch = References(vlm, DATA[1], SHORT).batch([0, 1])

    def step(*budgets):
        router.zero_grad()
        moment = Moment(0.5, budgets, torch.Generator())
        found = batch_loss(Learner(vlm, router, options), batch, moment, gate_loss)
        found.loss.backward()
        return found.value, torch.cat([parameter.grad.ravel() for parameter in router.parameters()])

    values, gradients = zip(*(step(Quota(*each)) for each in ((9, 4), (20, 5))), strict=True)
    value, gradient = step(Quota(9, 4), Quota(20, 5))
    assert value == pytest.approx(sum(values) / 2)
    torch.testing.assert_close(gradient, sum(gradients) / 2, rtol=1e-4, atol=1e-8)


def test_frugal_training_is_the_same_training(vlm, tmp_path):
    for name, frugal in (("usual", False), ("frugal", True)):
        train(vlm, DATA, tmp_path / name, TINY, RunOptions(steps=3, answer_tokens=SHORT, checkpoint=frugal))
    for name, value in weights(tmp_path / "usual", vlm).items():
        torch.testing.assert_close(value, weights(tmp_path / "frugal", vlm)[name], rtol=1e-4, atol=1e-5)


def test_every_epoch_shows_every_example_once_in_another_order():
    walk = Walk(10, seed=3)
    epochs = [walk.take(start, 10) for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert Walk(10, seed=3).take(7, 6) == (epochs[0] + epochs[1])[7:13]
    assert Walk(10, seed=4).take(0, 10) != epochs[0]


def test_a_start_is_another_routers_weights(vlm, tmp_path):
    first, other = tmp_path / "first", load_model(write_random_checkpoint(tmp_path / "other", SHAPE, seed=5))
    assert other.digest != vlm.digest
    train(other, DATA, first, TINY, RunOptions(steps=2, answer_tokens=SHORT))
    start = read_start(first, vlm)
    again = first_router(vlm, TINY, start)
    for name, value in weights(first, other).items():
        assert torch.equal(value, again.state_dict()[name])
    run = RunOptions(steps=1, answer_tokens=SHORT)
    train(vlm, DATA, tmp_path / "second", TINY, run, start)
    facts = read_record(tmp_path / "second").training
    assert facts["init_model"] == other.digest
    assert facts["init_weights"] == read_record(first).weights.sha256
    with pytest.raises(InputInvalid, match="other options"):
        train(vlm, DATA, tmp_path / "second", TINY, msgspec.structs.replace(run, steps=2))
    with pytest.raises(RouterMismatch, match="attention=causal"):
        first_router(vlm, msgspec.structs.replace(TINY, attention="bidirectional"), start)
    with pytest.raises(RouterMismatch, match="scope=prompt"):
        first_router(vlm, msgspec.structs.replace(TINY, scope="image"), start)
    with pytest.raises(InputInvalid, match="two starts"):
        first_router(vlm, msgspec.structs.replace(TINY, start="model"), start)


def test_budgets_per_step_are_at_most_all(vlm, tmp_path):
    with pytest.raises(InputInvalid, match="budgets_per_step"):
        train(vlm, DATA, tmp_path, msgspec.structs.replace(TINY, budgets_per_step=2), RunOptions(steps=1))


def test_gates_teach_more_than_chance(vlm, tmp_path):
    """The learned scores stay closer to the model than random ones, tokens alone and layers alone as well."""
    train(vlm, (DATA[0], DATA[0]), tmp_path, TINY, RunOptions(steps=50, validate_every=10, answer_tokens=SHORT))
    learned = router_scorer(load_router(tmp_path, model_spec=vlm.spec, model_digest=vlm.digest))
    references = References(vlm, DATA[0], SHORT)

    def divergence(tokens: bool, layers: bool) -> float:
        found = []
        for seed in range(6):
            chance = random_scorer(vlm, seed)

            def scorer(batch, chance=chance):
                drawn, scores = chance(batch), learned(batch)
                token_scores = (scores if tokens else drawn).token_scores
                return Scores(token_scores, (scores if layers else drawn).layer_scores)

            found += measure(vlm, references, scorer, [Quota(9, 4)], 1)
        return sum(close.divergence for close in found) / len(found)

    both, none = divergence(tokens=True, layers=True), divergence(tokens=False, layers=False)
    assert both < 0.85 * none
    assert divergence(tokens=True, layers=False) < none
    assert divergence(tokens=False, layers=True) < none


def test_hard_examples_are_drawn_again_and_easy_ones_are_not():
    hard, chance = Hard(5), torch.Generator().manual_seed(0)
    assert hard.draw(3, chance, []) == []
    hard.remember([0, 1, 2], torch.tensor([0.0, 1.0, 3.0]))
    hard.remember([3], torch.tensor([float("nan")]))
    assert sorted(hard.draw(4, chance, [])) == [1, 2]
    assert hard.draw(4, chance, [2]) == [1]
    first = [hard.draw(1, chance, [0])[0] for _ in range(400)]
    assert set(first) == {1, 2}
    assert 0.65 < first.count(2) / 400 < 0.85  # three times out of four
    hard.remember([2], torch.tensor([0.0]))
    assert hard.draw(4, chance, []) == [1]


@pytest.mark.parametrize("focus", [0.5, 0.0])
def test_a_killed_run_ends_as_an_unbroken_one(vlm, tmp_path, monkeypatch, focus):
    options = msgspec.structs.replace(TINY, focus=focus)
    run = RunOptions(steps=8, validate_every=2, save_every=3, answer_tokens=SHORT)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(vlm, DATA, whole, options, run)
    real = train_module.batch_loss

    for after in (2, 4, 1, 3):  # killed before anything was saved, right behind a state, and in between
        calls = iter(range(after))

        def killed(*args, calls=calls):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(train_module, "batch_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train(vlm, DATA, broken, options, run)
    monkeypatch.setattr(train_module, "batch_loss", real)
    found = train(vlm, DATA, broken, options, run)
    assert found[:4] == expected[:4]
    for name, value in weights(whole, vlm).items():
        assert torch.equal(value, weights(broken, vlm)[name]), name
    strip = [[{k: v for k, v in line.items() if k != "seconds"} for line in lines(out)] for out in (whole, broken)]
    assert strip[0] == strip[1]


def test_a_finished_run_is_not_run_again_but_can_be_prolonged(vlm, tmp_path):
    first = train(vlm, DATA, tmp_path, TINY, RunOptions(steps=2, validate_every=1))
    again = train(vlm, DATA, tmp_path, TINY, RunOptions(steps=2, validate_every=1))
    assert again[:3] == first[:3]
    assert again.steps == 2
    assert train(vlm, DATA, tmp_path, TINY, RunOptions(steps=3, validate_every=1)).steps == 3


def test_the_model_stays_as_it_is_and_a_change_is_noticed(vlm, tmp_path, monkeypatch):
    before = weights_digest(vlm.model)
    train(vlm, DATA, tmp_path / "good", TINY, RunOptions(steps=2))
    assert weights_digest(vlm.model) == before
    real = train_module.batch_loss
    bias = vlm.model.model.language_model.norm.weight

    def meddling(*args):
        bias.data[0] += 1
        return real(*args)

    monkeypatch.setattr(train_module, "batch_loss", meddling)
    with pytest.raises(RouterMismatch, match="model changed"):
        train(vlm, DATA, tmp_path / "bad", TINY, RunOptions(steps=1))
    bias.data[0] -= 1


def test_another_run_is_not_continued(vlm, tmp_path):
    train(vlm, DATA, tmp_path, TINY, RunOptions(steps=1))
    with pytest.raises(InputInvalid, match="other options"):
        train(vlm, DATA, tmp_path, msgspec.structs.replace(TINY, seed=1), RunOptions(steps=2))
    with pytest.raises(InputInvalid, match="other options"):
        train(vlm, (Images(7, 12), DATA[1]), tmp_path, TINY, RunOptions(steps=2))
    (tmp_path / "training" / "state.pt").write_bytes(b"torn")
    with pytest.raises(InputInvalid, match="damaged"):
        train(vlm, DATA, tmp_path, TINY, RunOptions(steps=2))


def test_an_end_must_be_given(vlm, tmp_path):
    with pytest.raises(InputInvalid, match="minutes"):
        train(vlm, DATA, tmp_path, TINY, RunOptions())


def test_minutes_end_a_run(vlm, tmp_path):
    result = train(vlm, DATA, tmp_path, TINY, RunOptions(minutes=0.02, validate_every=1000))
    assert result.steps >= 1
    assert result.seconds >= 1.2
