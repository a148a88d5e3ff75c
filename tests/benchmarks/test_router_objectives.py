"""The objectives of the ablation: held to their definitions, and each of them learns."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
from test_train import DATA, SHORT, TINY, lines, one_thread, vlm  # noqa: F401 - fixtures

from allrounder.router.checkpoint import load_router
from allrounder.router.decisions import Quota
from allrounder.router.model import Scores
from allrounder.router.training.measure import measure, router_scorer
from allrounder.router.training.references import References
from allrounder.router.training.start import first_router
from allrounder.router.training.train import RunOptions, train


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("router_objectives")


@pytest.mark.parametrize("name", ["preference", "reference-free", "policy"])
def test_every_objective_learns_something(vlm, tmp_path, module, name):  # noqa: F811
    run = RunOptions(steps=20, answer_tokens=SHORT)
    train(vlm, (DATA[1], DATA[1]), tmp_path, TINY, run, objective=module.objectives()[name])
    log = [line for line in lines(tmp_path) if "loss" in line]
    first, last = (sum(line["loss"] for line in part) / 5 for part in (log[:5], log[-5:]))
    assert last < first
    assert [line["step"] for line in log] == list(range(1, 21))


def test_listwise_brings_the_divergence_down(vlm, tmp_path, module):  # noqa: F811
    """That of the decision that the scores alone give, on what was learned; its loss is of other decisions at every
    step.
    """
    references = References(vlm, DATA[1], SHORT)

    def found(router):
        return measure(vlm, references, router_scorer(router), [Quota(9, 4)], 1)[0].divergence

    run = RunOptions(steps=20, answer_tokens=SHORT)
    train(vlm, (DATA[1], DATA[1]), tmp_path, TINY, run, objective=module.objectives()["listwise"])
    learned = load_router(tmp_path, model_spec=vlm.spec, model_digest=vlm.digest)
    assert found(learned) < 0.98 * found(first_router(vlm, TINY, None))


def test_decision_log_prob_is_the_bernoulli_of_both_groups_by_their_lengths(module):
    scores = Scores(torch.tensor([[0.0, 2.0]]), torch.tensor([[9.0, -1.0, 0.5]]))
    picked = module.Picked(torch.tensor([[True, False]]), torch.tensor([[True, False]]))

    def log_p(value: float) -> float:
        return -math.log1p(math.exp(-value))

    wanted = (log_p(0.0) + log_p(-2.0)) / 2 + (log_p(-1.0) + log_p(-0.5)) / 2
    assert module.decision_log_prob(scores, picked, prune_layer=1).item() == pytest.approx(wanted, rel=1e-5)
    padded = scores._replace(token_scores=torch.tensor([[0.0, 2.0, -torch.inf]]))
    picked = picked._replace(tokens=torch.tensor([[True, False, False]]))
    assert module.decision_log_prob(padded, picked, prune_layer=1).item() == pytest.approx(wanted, rel=1e-5)


def test_preference_prefers_the_closest_decision(module):
    log_probs, divergences = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]] * 2)
    loss = module.preference_loss(log_probs, divergences)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-module.BETA)), math.log1p(math.exp(module.BETA))])


def test_policy_pulls_towards_the_decisions_that_stay_closest(module):
    log_probs = torch.zeros(1, 3, requires_grad=True)
    module.policy_loss(log_probs, torch.tensor([[0.1, 0.5, 0.9]])).sum().backward()
    assert log_probs.grad is not None
    best, middle, worst = log_probs.grad[0].tolist()
    assert best < middle < worst
    assert best + middle + worst == pytest.approx(0.0, abs=1e-6)
    same = module.policy_loss(torch.randn(1, 3), torch.full((1, 3), 0.3))
    assert same.isfinite().all(), "equal divergences teach nothing, and divide by nothing"


def test_sparsity_is_nothing_at_the_budget(module):
    half = Scores(torch.zeros(1, 8), torch.zeros(1, 6))
    tokens, layers = module.sparsity(half, torch.tensor([0.5]), 4, prune_layer=2)
    assert (tokens.item(), layers.item()) == (0.0, 0.0)
    tokens, layers = module.sparsity(half, torch.tensor([0.25]), 5, prune_layer=2)
    assert (tokens.item(), layers.item()) == (0.25, 0.25)


def test_the_listwise_loss_lifts_what_lies_close(module):
    divergences = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.7, 0.7]])
    log_probs = torch.tensor([[-0.6, -0.6, -0.6], [-0.5, -0.6, -0.7]], requires_grad=True)
    loss = module.listwise_loss(log_probs, divergences)
    loss.sum().backward()
    best, worst, middle = log_probs.grad[0].tolist()
    assert best < 0 < worst
    assert best < middle < worst
    assert log_probs.grad[1, 0] > 0 > log_probs.grad[1, 2], "equal decisions are wanted equally often"
    spread = divergences[0].std()
    wanted = -divergences[:1] / (module.TEMPERATURE * spread) / module.SCALE
    assert float(module.listwise_loss(wanted, divergences[:1])) == pytest.approx(0.0, abs=1e-6)
    assert (loss.detach() >= 0).all()
