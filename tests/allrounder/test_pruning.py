"""The one record of pruning: what it refuses, and how it comes from what a command line says."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prunings import pruning

from allrounder.errors import InvalidBudget, UnknownVersion
from allrounder.pruning import (
    LAYER_POLICIES,
    custom_version,
    parse_keep,
    pruning_config,
    pruning_configs,
    requested_keep,
)
from allrounder.versions import FULL, VERSIONS, is_version, keep_of, kept_tokens, resolve

MODEL = {"layers": 8}


@given(st.sampled_from(list(VERSIONS)), st.integers(1, 900), st.integers(4, 60), st.integers(0, 3), st.booleans())
def test_what_is_made_of_a_name_is_possible(version, tokens, layers, prune_layer, static):
    policy = "static" if static else "dynamic"
    found = pruning_config(version, layers=layers, prune_layer=prune_layer, layer_policy=policy)
    assert found.layer_policy == ("static" if found.layers == layers else policy)
    assert found.prune_layer == (0 if version == FULL else prune_layer)
    if found.unranked:
        with pytest.raises(InvalidBudget, match="not listed"):
            found.check(layers=layers)
    else:
        found.check(layers=layers)
    assert found.keep_rule == keep_of(version)
    assert found.budget(tokens) == resolve(version, tokens=tokens, layers=layers)
    assert found.prunes == (version != FULL)
    assert found.routes == (found.prunes or (found.layers < layers and not static))


@given(st.fractions(0, 1, max_denominator=10**6).filter(bool) | st.integers(2, 10**6), st.integers(1, 4000))
def test_a_keep_rule_is_written_and_read_as_it_is(keep, tokens):
    made = pruning((keep, 4), version="par-lite")
    assert (made.keep_rule, made.prunes) == (keep, keep != 1)
    assert made.budget(tokens) == (kept_tokens(keep, tokens), 4)
    made.check(**MODEL)


@pytest.mark.parametrize(
    "made",
    [
        pruning(("0", 6), 2, version="par-lite"),
        pruning(("5/4", 6), 2, version="par-lite"),
        pruning((4, 9), 2),
        pruning((4, 1), 2),
        pruning((4, 6), 8),
        pruning((15, 8), 2, tuple(range(8)), FULL),
        pruning((1, 7), 0, tuple(range(7)), FULL),
        pruning((1, 8), 2, None, FULL),
        pruning((4, 3), 2, (0, 1)),
        pruning((4, 3), 2, (0, 1, 8)),
        pruning((4, 3), 2, (1, 0, 2)),
        pruning((4, 3), 2, (0, 0, 1)),
        pruning((4, 3), 2, (0, 2, 3)),
    ],
    ids=repr,
)
def test_what_no_model_can_be_pruned_to_is_refused(made):
    with pytest.raises(InvalidBudget):
        made.check(**MODEL)


def test_each_version_is_made_once_per_policy_and_whole_ones_once():
    found = pruning_configs((FULL, "par-lite", "t4-l8", "par-lite"), **MODEL, prune_layer=2, policies=LAYER_POLICIES)
    assert [each.key for each in found] == [
        (FULL, 0, "static"),
        ("par-lite", 2, "static"),
        ("par-lite", 2, "dynamic"),
        ("t4-l8", 2, "static"),
    ]


@pytest.mark.parametrize(
    ("version", "prune_layer", "error"),
    [("par-huge", 2, UnknownVersion), ("t17-l9", 2, InvalidBudget), ("par-lite", 7, InvalidBudget)],
)
def test_impossible_versions_are_refused(version, prune_layer, error):
    with pytest.raises(error):
        pruning_config(version, **MODEL, prune_layer=prune_layer, layer_policy="static")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.25", Fraction(1, 4)),
        (".1", Fraction(1, 10)),
        (" 144 ", 144),
        ("2", 2),
        ("1", Fraction(1)),
        ("1.0", Fraction(1)),
        ("0.333333333", Fraction(333333333, 10**9)),
    ],
)
def test_a_keep_rule_is_a_share_or_a_count(text, wanted):
    found = parse_keep(text)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "-1", "-0.5", "1.5", "2.0", "1e-3", "nan", "1/4", "4-6", ".", "1.", "9" * 5000, "\u0661"]
)
def test_other_keep_rules_are_refused(text):
    with pytest.raises(InvalidBudget, match="keep rule"):
        parse_keep(text)


@given(st.integers(1, 10**9 - 2), st.integers(1, 60))
def test_the_name_of_a_custom_version_means_the_same(billionths, layers):
    for keep in (Fraction(billionths, 10**9), billionths + 1):
        name = custom_version(keep, layers)
        assert is_version(name)
        assert (keep_of(name), type(keep_of(name))) == (keep, type(keep))
        assert name.endswith(f"-l{layers}")


@pytest.mark.parametrize(("value", "wanted"), [(0.25, Fraction(1, 4)), (144, 144), (1, 1), (1.0, 1), (2, 2)])
def test_a_request_gives_a_number(value, wanted):
    assert requested_keep(value) == wanted


@pytest.mark.parametrize(
    "value", [True, False, None, "0.25", b"2", 0, -1, 1.5, 0.0, float("nan"), float("inf"), 1e-10, [2]]
)
def test_a_request_that_gives_none_is_refused_and_named(value):
    with pytest.raises(InvalidBudget, match="keep"):
        requested_keep(value)
