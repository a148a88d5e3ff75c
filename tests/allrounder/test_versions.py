"""Versions: scaling by ratio, nesting, custom budgets, and which decisions exist."""

import itertools
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.errors import InvalidBudget, UnknownVersion
from allrounder.versions import DEFAULT_VERSION, FULL, VERSIONS, Budget, check_decision, is_version, resolve

vlms = st.fixed_dictionaries({"tokens": st.integers(1, 4000), "layers": st.integers(1, 200)})


def test_the_table_is_the_papers():
    assert VERSIONS == {
        "full": (576, 32),
        "par-max": (256, 28),
        "par-base": (176, 28),
        "par-lite": (144, 24),
        "par-nano": (128, 24),
    }
    assert DEFAULT_VERSION in VERSIONS


@given(vlms)
def test_every_version_is_a_decision_of_every_model_and_full_is_all_of_it(vlm):
    for name in VERSIONS:
        check_decision(resolve(name, **vlm), prune_layer=0, **vlm)
    assert resolve(FULL, **vlm) == Budget(**vlm)


@given(vlms)
def test_versions_are_nested(vlm):
    budgets = [resolve(name, **vlm) for name in VERSIONS]
    for larger, smaller in itertools.pairwise(budgets):
        assert larger.tokens >= smaller.tokens
        assert larger.layers >= smaller.layers


@given(vlms, vlms)
def test_a_larger_model_never_gets_a_smaller_budget(one, other):
    for name in VERSIONS:
        low = resolve(name, tokens=min(one["tokens"], other["tokens"]), layers=min(one["layers"], other["layers"]))
        high = resolve(name, tokens=max(one["tokens"], other["tokens"]), layers=max(one["layers"], other["layers"]))
        assert low.tokens <= high.tokens
        assert low.layers <= high.layers


@given(vlms)
def test_scaling_rounds_half_up(vlm):
    for name, share in VERSIONS.items():
        exact = Fraction(share.tokens * vlm["tokens"], 576)
        assert resolve(name, **vlm).tokens == max(1, floor(exact + Fraction(1, 2)))


def test_a_half_is_rounded_up():
    assert resolve("par-nano", tokens=9 * 5, layers=2) == Budget(10, 2)  # 128/576 * 45 = 10, 24/32 * 2 = 1.5


@given(st.integers(1, 600), st.integers(1, 40))
def test_custom_budgets_are_absolute_and_their_name_means_the_same(tokens, layers):
    assert Budget(tokens, layers).name == f"t{tokens}-l{layers}"
    assert resolve(Budget(tokens, layers).name, tokens=600, layers=40) == (tokens, layers)
    assert is_version(Budget(tokens, layers).name)


@pytest.mark.parametrize(
    "name", ["", "par-huge", "PAR-LITE", "t0-l1", "t1-l0", "t1", "t1-l1 ", "t01-l1", "t1\u0662-l3"]
)
def test_unknown_names_are_told_what_there_is(name):
    assert not is_version(name)
    with pytest.raises(UnknownVersion, match="par-lite"):
        resolve(name, tokens=576, layers=32)


def test_a_custom_name_that_does_not_fit_the_model():
    with pytest.raises(InvalidBudget, match="1 to 576"):
        resolve("t577-l2", tokens=576, layers=32)


@given(st.integers(-2, 12), st.integers(-2, 12), st.integers(1, 10), st.integers(1, 10), st.integers(-2, 12))
def test_check_decision_is_the_rule(kept_tokens, kept_layers, tokens, layers, prune_layer):
    possible = 1 <= kept_tokens <= tokens and max(prune_layer, 1) <= kept_layers <= layers and 0 <= prune_layer < layers
    arguments = {"tokens": tokens, "layers": layers, "prune_layer": prune_layer}
    if possible:
        check_decision(Budget(kept_tokens, kept_layers), **arguments)
    else:
        with pytest.raises(InvalidBudget):
            check_decision(Budget(kept_tokens, kept_layers), **arguments)
