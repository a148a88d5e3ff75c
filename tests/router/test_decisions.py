"""Soft gates: pure functions, held to their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.router.decisions import soft_layers, soft_top, straight_through
from allrounder.router.selection import keep_indices

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
    hard = torch.zeros(1, 12).scatter(1, keep_indices(scores, count), 1.0)
    torch.testing.assert_close(soft_top(scores, count, 0.02), hard, atol=1e-3, rtol=0)


def test_the_gradient_of_soft_gates_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: (soft_top(s, 4, 0.7) * weights).sum(), scores, atol=1e-6)
    (gradient,) = torch.autograd.grad((soft_top(scores, 4, 0.7) * weights).sum(), scores)
    assert gradient.sum().abs() < 1e-9, "shifting all scores changes nothing"


def test_layer_gates_are_open_below_the_prune_layer():
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
