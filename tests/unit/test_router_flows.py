"""Soft gates and objectives: pure functions, held to their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.router.flows import soft_layers, soft_top, straight_through
from allrounder.router.model import Scores
from allrounder.router.objective import Picked, attention_loss, flow_log_prob, policy_loss, preference_loss, sparsity
from allrounder.router.selection import keep_list
from allrounder.versions import Budget

ROWS = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=20)


@settings(max_examples=50)
@given(row=ROWS, data=st.data(), temperature=st.sampled_from([0.05, 0.5, 2.0]))
def test_soft_gates_sum_to_the_budget_and_keep_the_order(row, data, temperature):
    count = data.draw(st.integers(1, len(row)))
    scores = torch.tensor([row])
    gates = soft_top(scores, count, temperature)
    assert gates.sum().item() == pytest.approx(count, rel=1e-3)
    assert (gates >= 0).all()
    assert (gates <= 1).all()
    order = scores[0].argsort()
    assert (gates[0][order].diff() >= -1e-6).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 11))
def test_cold_gates_are_the_hard_cut(seed, count):
    scores = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).float()[None]
    hard = torch.zeros(1, 12).scatter(1, keep_list(scores, count), 1.0)
    torch.testing.assert_close(soft_top(scores, count, 0.02), hard, atol=1e-3, rtol=0)


def test_the_gradient_of_soft_gates_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: (soft_top(s, 4, 0.7) * weights).sum(), scores, atol=1e-6)
    (gradient,) = torch.autograd.grad((soft_top(scores, 4, 0.7) * weights).sum(), scores)
    assert gradient.sum().abs() < 1e-9, "shifting all scores changes nothing"


def test_layer_gates_are_open_below_the_gather_layer():
    scores = torch.tensor([[-9.0, -9.0, 3.0, 1.0, 2.0]])
    gates = soft_layers(scores, 4, 2, 0.01)
    torch.testing.assert_close(gates, torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]]), atol=1e-4, rtol=0)
    assert soft_layers(scores, 2, 2, 1.0).tolist() == [[1, 1, 0, 0, 0]]
    assert soft_layers(scores, 5, 2, 1.0).tolist() == [[1, 1, 1, 1, 1]]


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    soft = torch.tensor([0.2, 0.9], requires_grad=True)
    mixed = straight_through(torch.tensor([False, True]), soft)
    assert mixed.tolist() == [0.0, 1.0]
    (mixed * torch.tensor([3.0, 4.0])).sum().backward()
    assert soft.grad is not None
    assert soft.grad.tolist() == [3.0, 4.0]


def test_flow_log_prob_is_the_bernoulli_of_both_groups_by_their_lengths():
    scores = Scores(torch.tensor([[0.0, 2.0]]), torch.tensor([[9.0, -1.0, 0.5]]))
    picked = Picked(torch.tensor([[True, False]]), torch.tensor([[True, False]]))

    def log_p(value: float) -> float:
        return -math.log1p(math.exp(-value))

    wanted = (log_p(0.0) + log_p(-2.0)) / 2 + (log_p(-1.0) + log_p(-0.5)) / 2
    assert flow_log_prob(scores, picked, gather_layer=1).item() == pytest.approx(wanted, rel=1e-5)


def test_preference_prefers_the_chosen_flow():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    loss = preference_loss(chosen, rejected, beta=2.0)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.0))])


def test_policy_pulls_towards_the_flows_that_stay_closest():
    log_probs = torch.zeros(1, 3, requires_grad=True)
    policy_loss(log_probs, torch.tensor([[0.1, 0.5, 0.9]])).sum().backward()
    assert log_probs.grad is not None
    best, middle, worst = log_probs.grad[0].tolist()
    assert best < middle < worst
    assert best + middle + worst == pytest.approx(0.0, abs=1e-6)
    same = policy_loss(torch.randn(1, 3), torch.full((1, 3), 0.3))
    assert same.isfinite().all(), "equal divergences teach nothing, and divide by nothing"


def test_attention_loss_is_least_at_the_logarithm_of_the_attention():
    attention = torch.tensor([[0.1, 0.3, 0.2]])
    best = attention_loss(attention.log() + 5.0, attention)
    entropy = -(torch.tensor([1, 3, 2]) / 6 * (torch.tensor([1, 3, 2]) / 6).log()).sum()
    torch.testing.assert_close(best, entropy[None])
    assert attention_loss(torch.zeros(1, 3), attention) > best
    assert attention_loss(torch.zeros(1, 3), torch.zeros(1, 3)).isfinite().all()


def test_sparsity_is_nothing_at_the_budget():
    half = Scores(torch.zeros(1, 8), torch.zeros(1, 6))
    tokens, layers = sparsity(half, Budget(4, 4), gather_layer=2)
    assert (tokens.item(), layers.item()) == (0.0, 0.0)
    tokens, layers = sparsity(half, Budget(2, 5), gather_layer=2)
    assert (tokens.item(), layers.item()) == (0.25, 0.25)
