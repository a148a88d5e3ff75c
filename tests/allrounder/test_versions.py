"""Versions: scaling by ratio, nesting, custom budgets, and which decisions exist."""

import itertools
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.errors import InvalidBudget, UnknownVersion
from allrounder.versions import (
    DEFAULT_VERSION,
    EVERYTHING,
    FULL,
    VERSIONS,
    Budget,
    check_decision,
    is_version,
    keep_of,
    kept_tokens,
    resolve,
)

vlms = st.fixed_dictionaries({"tokens": st.integers(1, 4000), "layers": st.integers(1, 200)})


def test_the_table_is_the_papers():
    assert {name: resolve(name, tokens=576, layers=32) for name in VERSIONS} == {
        "full": (576, 32),
        "par-max": (256, 28),
        "par-base": (176, 28),
        "par-lite": (144, 24),
        "par-nano": (128, 24),
    }
    assert all(share.tokens.denominator <= 576 and share.layers.denominator <= 32 for share in VERSIONS.values())
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
        for exact, found in zip(share, resolve(name, **vlm), strict=True):
            size = vlm["tokens"] if exact is share.tokens else vlm["layers"]
            assert found == max(1, floor(exact * size + Fraction(1, 2)))


def test_a_half_is_rounded_up():
    assert resolve("par-nano", tokens=9 * 5, layers=2) == Budget(10, 2)  # 128/576 * 45 = 10, 24/32 * 2 = 1.5


shares = st.fractions(Fraction(1, 10**9), 1, max_denominator=10**9)
counts = st.integers(2, 10**9 - 1)
images = st.integers(1, 20_000)


@given(shares, images)
def test_a_share_of_an_image_is_rounded_half_up_and_keeps_something(share, tokens):
    kept = kept_tokens(share, tokens)
    assert isinstance(kept, int)
    assert 1 <= kept <= tokens
    assert kept == max(1, floor(share * tokens + Fraction(1, 2)))


@given(images)
def test_a_half_of_an_odd_number_is_the_larger_one(tokens):
    assert kept_tokens(Fraction(1, 2), tokens) == (tokens + 1) // 2
    assert kept_tokens(EVERYTHING, tokens) == tokens


@given(counts, images)
def test_a_count_means_at_most_all_tokens_of_the_image(count, tokens):
    assert kept_tokens(count, tokens) == min(count, tokens)


@given(
    st.lists(shares, min_size=2, max_size=2).map(sorted) | st.lists(counts, min_size=2, max_size=2).map(sorted), images
)
def test_whoever_keeps_more_of_an_image_never_keeps_fewer_tokens(rules, tokens):
    low, high = (kept_tokens(rule, tokens) for rule in rules)
    assert low <= high
    assert kept_tokens(rules[0], tokens) <= kept_tokens(rules[0], tokens + 1)


@given(st.integers(2, 600), st.integers(1, 40))
def test_custom_counts_are_absolute_and_clipped_at_the_image(tokens, layers):
    name = f"t{tokens}-l{layers}"
    assert is_version(name)
    assert (keep_of(name), type(keep_of(name))) == (tokens, int)
    assert resolve(name, tokens=600, layers=40) == (tokens, layers)
    assert resolve(name, tokens=1, layers=40) == (1, layers)


@pytest.mark.parametrize(
    ("name", "keep"),
    [("t.25-l3", Fraction(1, 4)), ("t0.333333333-l3", Fraction(333333333, 10**9)), ("t1-l3", EVERYTHING)],
)
def test_custom_shares_are_exact(name, keep):
    assert (keep_of(name), type(keep_of(name))) == (keep, Fraction)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "par-huge",
        "PAR-LITE",
        "t0-l1",
        "t2-l0",
        "t2",
        "t2-l1 ",
        "t01-l1",
        "t1\u0662-l3",
        "t1.5-l3",
        "t.-l3",
        "t1/4-l3",
    ],
)
def test_unknown_names_are_told_what_there_is(name):
    assert not is_version(name)
    for ask in (lambda: resolve(name, tokens=576, layers=32), lambda: keep_of(name)):
        with pytest.raises(UnknownVersion, match="par-lite"):
            ask()


def test_a_share_of_nothing_is_refused():
    with pytest.raises(InvalidBudget, match="share of nothing"):
        keep_of("t0.000-l3")


def test_a_custom_name_that_does_not_fit_the_model():
    with pytest.raises(InvalidBudget, match="1 to 32"):
        resolve("t.5-l33", tokens=576, layers=32)


@given(st.integers(-2, 12), st.integers(-2, 12), st.integers(1, 10), st.integers(1, 10), st.integers(-2, 12))
def test_check_decision_is_the_rule(kept_tokens, kept_layers, tokens, layers, prune_layer):
    possible = 1 <= kept_tokens <= tokens and max(prune_layer, 1) <= kept_layers <= layers and 0 <= prune_layer < layers
    arguments = {"tokens": tokens, "layers": layers, "prune_layer": prune_layer}
    if possible:
        check_decision(Budget(kept_tokens, kept_layers), **arguments)
    else:
        with pytest.raises(InvalidBudget):
            check_decision(Budget(kept_tokens, kept_layers), **arguments)
