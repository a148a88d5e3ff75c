"""Prompt layouts and keep rules in C++ and in Python, asked the same questions."""

import json
import random
from fractions import Fraction

import pytest
from contract_asked import MANY, Probe, message, python
from hypothesis import given
from hypothesis import strategies as st
from manifest_strategies import keep_rules

from allrounder.layout import sequential_layout
from allrounder.pruning import requested_keep
from allrounder.versions import kept_tokens


@pytest.fixture(scope="module")
def probe(program):
    asked = Probe(program("contract_probe"))
    yield asked
    asked.close()


@MANY
@given(
    st.lists(st.sampled_from([5, 6, 9]), max_size=8),
    st.lists(st.lists(st.sampled_from([7, 9]), min_size=1, max_size=5).filter(lambda each: 9 in each), max_size=4),
    st.booleans(),
)
def test_layouts(probe, ids, images, matches):
    if matches:
        images = [*images, *[[9, 9]] * 8][: ids.count(9)]

    def made():
        layout = sequential_layout(ids, 9, images)
        return layout._asdict() | {"text_ids": layout.text_ids, "tokens_by_image": layout.tokens_by_image}

    wanted, got = python(made), probe.ask("layout", ids=ids, image_token_id=9, images=images)
    if wanted[0] == "ok":
        assert got == ("ok", json.loads(json.dumps(wanted[1])))
    else:
        assert got[0] == wanted[0]
        assert message(got) == message(wanted)


@MANY
@given(keep_rules, st.integers(0, 3000) | st.integers(0, 2**63 - 1))
def test_how_many_tokens_a_keep_rule_keeps(probe, rule, tokens):
    value = Fraction(rule)
    keep = int(value) if value > 1 else value
    assert probe.ask("keep", rule=rule, tokens=tokens) == ("ok", kept_tokens(keep, tokens))


@MANY
@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 1) | st.integers(-2, 2000) | st.integers())
def test_the_keep_rule_of_a_request(probe, value):
    """C has one kind of number: a count is one without a fraction."""
    if abs(value) > 2**53:
        value = 2**53
    asked = int(value) if value == int(value) else value
    wanted, got = python(lambda: str(requested_keep(asked))), probe.ask("requested", keep=float(value))
    assert got == wanted or got[0] == wanted[0] == "InvalidBudget"  # each shows the number in its own way


@pytest.mark.parametrize("digits", [8, 9, 10, 17])
def test_shares_at_the_border_between_two(probe, digits):
    draw = random.Random(digits)
    for _ in range(2000):
        share = round(draw.random(), digits) + draw.choice([0, 5e-10, 2**-31, 2**-40])
        wanted = python(lambda share=share: str(requested_keep(share)))
        got = probe.ask("requested", keep=share)
        assert got == wanted, share
