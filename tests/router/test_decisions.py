"""Soft gates: pure functions, held to their definitions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.router.decisions import Quota, quota, soft_layers, soft_top, straight_through
from allrounder.router.selection import best_indices, keep_counts

ROWS = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=20)


def gates_of(scores: torch.Tensor, count: int, temperature: float) -> torch.Tensor:
    """Of one image per row."""
    return soft_top(
        scores, torch.zeros_like(scores, dtype=torch.int64), torch.full((len(scores), 1), count), temperature
    )


@settings(max_examples=50)
@given(row=ROWS, data=st.data(), temperature=st.sampled_from([0.05, 0.5, 2.0]))
def test_soft_gates_sum_to_the_budget_and_keep_the_order(row, data, temperature):
    count = data.draw(st.integers(1, len(row)))
    scores = torch.tensor([row])
    gates = gates_of(scores, count, temperature)
    assert gates.sum().item() == pytest.approx(count, rel=1e-3)
    assert (gates >= 0).all()
    assert (gates <= 1).all()
    order = scores[0].argsort()
    assert (gates[0][order].diff() >= -1e-6).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 11))
def test_cold_gates_are_the_hard_cut(seed, count):
    scores = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).float()[None]
    hard = torch.zeros(1, 12).scatter(
        1, best_indices(scores, torch.zeros(1, 12, dtype=torch.int64), torch.tensor([[count]])), 1.0
    )
    torch.testing.assert_close(gates_of(scores, count, 0.02), hard, atol=1e-3, rtol=0)


def test_each_image_has_gates_of_its_own():
    """As if it stood alone; padding has none, and neither value nor gradient of it counts."""
    image_of = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, -1, -1], [-1] * 7])
    counts = keep_counts(image_of, Fraction(2, 5))
    assert counts.tolist() == [[1, 2], [2, 0], [0, 0]]
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    scores = scores.masked_fill(image_of < 0, -torch.inf).requires_grad_()
    gates = soft_top(scores, image_of, counts, 0.5)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    (gates * weights).sum().backward()
    for row, places, count in ((0, slice(0, 3), 1), (0, slice(3, 7), 2), (1, slice(0, 5), 2)):
        alone = scores.detach()[row : row + 1, places].requires_grad_()
        wanted = gates_of(alone, count, 0.5)
        (wanted * weights[row, places]).sum().backward()
        torch.testing.assert_close(gates[row, places], wanted[0])
        torch.testing.assert_close(scores.grad[row, places], alone.grad[0])
    assert not gates[image_of < 0].any()
    assert not scores.grad[image_of < 0].any()


def test_a_quota_is_that_of_the_version():
    assert quota("par-lite", 24) == Quota(Fraction(1, 4), 18)
    assert quota("t9-l4", 6) == Quota(9, 4)
    assert quota("full", 6) == Quota(Fraction(1), 6)


def test_the_gradient_of_soft_gates_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: (gates_of(s, 4, 0.7) * weights).sum(), scores, atol=1e-6)
    (gradient,) = torch.autograd.grad((gates_of(scores, 4, 0.7) * weights).sum(), scores)
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
