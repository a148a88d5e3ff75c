"""What a fidelity report is measured on: budgets, rows, chunks of whole images."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.calib.report.data import typical
from allrounder.calib.report.work_list import (
    aggressive,
    chunks,
    digest_of_work,
    grid_size,
    wanted_engines,
    work_list,
)
from allrounder.errors import CalibrationError, InvalidBudget
from allrounder.fidelity_report import ROUTER
from allrounder.prompts import Prompt
from allrounder.pruning import custom_version
from allrounder.versions import FULL, VERSIONS, resolve


def prompts_of(*counts):
    """Prompts about images 0, 1, ...: so many about each."""
    return [
        Prompt(Path(f"{image}.png"), f"{number}?", None, f"kind {number % 3}")
        for image, count in enumerate(counts)
        for number in range(count)
    ]


def test_engines_of_the_demo_model():
    engines = wanted_engines(576, 24, 2)
    names = {policy: [e.version for e in engines if e.layer_policy == policy] for policy in ("dynamic", "static")}
    versions = [name for name in VERSIONS if name != FULL]
    assert names["dynamic"] == [*versions, "t1-l21", "t1-l18"]
    alone = ["t256-l24", "t176-l24", "t144-l24", "t128-l24", "t63-l24"]
    assert names["static"] == [FULL, *versions, *alone, "t1-l21", "t1-l18"]
    for engine in engines:
        assert engine.version in VERSIONS or engine.version == custom_version(engine.keep_rule, engine.layers)


@given(st.one_of(st.none(), st.integers(1, 900)), st.integers(4, 90))
def test_engines_are_distinct_and_all_but_full_prune(tokens, layers):
    engines, most = wanted_engines(tokens, layers, 2), tokens or 1000
    assert len({engine.key for engine in engines}) == len(engines)
    assert engines[0].budget(most) == (most, layers)
    assert all(engine.budget(most) != (most, layers) for engine in engines[1:])


def test_what_is_kept_of_tokens_alone_is_a_share_where_images_differ():
    """T of an image of 300 tokens and of one of 744 is then that of the version, and 11 %."""
    engines = {(engine.version, engine.layer_policy): engine for engine in wanted_engines(None, 24, 2)}
    alone = [version for version, _ in engines if version.endswith("-l24")]
    assert alone == ["t0.444444444-l24", "t0.305555556-l24", "t0.25-l24", "t0.222222222-l24", "t0.11-l24"]
    for version, name in zip(alone, ("par-max", "par-base", "par-lite", "par-nano"), strict=False):
        for tokens in (300, 744):
            assert engines[version, "static"].budget(tokens).tokens == resolve(name, tokens=tokens, layers=24).tokens
    assert [engines["t0.11-l24", "static"].budget(tokens).tokens for tokens in (300, 744)] == [33, 82]
    assert ("t1-l18", "dynamic") in engines


def test_a_prune_layer_beyond_a_budget_is_refused():
    with pytest.raises(InvalidBudget):
        wanted_engines(576, 24, 19)


@pytest.mark.parametrize(
    ("tokens", "kept"), [(576, 63), (16, 2), (1, 1), (50, 6), (2880, 317), (None, Fraction(11, 100))]
)
def test_eleven_percent_is_rounded_half_up(tokens, kept):
    assert aggressive(tokens) == kept


def test_rows_of_the_demo_model():
    engines = wanted_engines(576, 24, 2)
    work = work_list(engines, "t63-l24", 2000, 500, downscales=True)
    rows = {(each.pruner, each.version, each.layer_policy): each.questions for each in work.subjects}
    assert len(rows) == len(work.subjects)
    assert work.subjects[0].version == FULL
    assert [count for (pruner, *_), count in rows.items() if pruner == ROUTER] == [2000] * len(engines)
    assert rows["random+random", "par-nano", "dynamic"] == 500
    assert rows["divprune+none", "t63-l24", "static"] == 500
    assert rows[f"random+{ROUTER}", "par-max", "dynamic"] == 500
    assert rows["downscale+shortgpt", "par-lite", "dynamic"] == rows["downscale+none", "t63-l24", "static"] == 500
    assert len(work.of(499)) == len(work.subjects)
    assert [work.subjects[place].pruner for place in work.of(500)] == [ROUTER] * len(engines)


def test_without_a_grid_the_router_stands_alone():
    work = work_list(wanted_engines(576, 24, 2), "t63-l24", 10, 0, downscales=True)
    assert {subject.pruner for subject in work.subjects} == {ROUTER}


def test_downscaling_is_left_out_where_it_cannot_be():
    engines = wanted_engines(None, 24, 2)
    both = [work_list(engines, "t0.11-l24", 9, 9, downscales=each).subjects for each in (True, False)]
    assert [subject for subject in both[0] if not subject.downscales] == list(both[1])
    assert len(both[0]) - len(both[1]) == 2 * 4 + 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 60), st.integers(1, 30))
def test_chunks_are_whole_images_and_cut_at_the_grid(counts, wanted, size):
    prompts = prompts_of(*counts)
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    if 0 < wanted < counts[0]:
        with pytest.raises(CalibrationError, match="grid"):
            grid_size(prompts, wanted)
        return
    grid = grid_size(prompts, wanted)
    assert grid <= wanted
    assert grid in (0, *ends)
    assert not any(grid < end <= wanted for end in ends)
    found = chunks(prompts, grid, size)
    assert [chunk.first for chunk in found] == [0, *(chunk.end for chunk in found[:-1])]
    assert found[-1].end == len(prompts)
    assert {chunk.end for chunk in found} <= set(ends)
    assert grid in (0, *(chunk.end for chunk in found))
    assert all(chunk.end - chunk.first < size + max(counts) for chunk in found)


def _work(engines, questions, grid):
    return work_list(engines, "t63-l24", questions, grid, downscales=True)


def test_other_work_has_another_name():
    engines = wanted_engines(576, 24, 2)
    prompts = prompts_of(3, 3)
    one = digest_of_work(_work(engines, 6, 3), prompts, "facts")
    assert one == digest_of_work(_work(engines, 6, 3), prompts, "facts")
    others = [
        digest_of_work(_work(engines, 6, 6), prompts, "facts"),
        digest_of_work(_work(engines[:-1], 6, 3), prompts, "facts"),
        digest_of_work(_work(engines, 6, 3), prompts[:-1], "facts"),
        digest_of_work(_work(engines, 6, 3), prompts, "others"),
    ]
    assert len({one, *others}) == 5


def test_typical_questions_are_of_different_kinds_and_images():
    found = typical(prompts_of(5, 5, 5, 5, 5, 5, 5), 6)
    assert len({prompt.image for prompt in found}) == 6
    assert [sum(prompt.kind == kind for prompt in found) for kind in ("kind 0", "kind 1", "kind 2")] == [2, 2, 2]
    assert len(typical(prompts_of(3, 3), 6)) == 2
    assert typical(prompts_of(3), 0) == ()
