"""What the report's page says: figures, comparisons and their verdicts, curves."""

import msgspec
import pytest
from made_report import BUDGETS, OTHERS, costs, figures, report, report_of_tiles, shown, words

from allrounder.calib.report.tiles import best_other, tables
from allrounder.calib.report.write import render
from allrounder.calib.tables import ranges
from allrounder.commands.report import page
from allrounder.commands.report.images import curves
from allrounder.commands.report.page import _number as number
from allrounder.commands.report.rows import halves, verdict


def test_the_tables_hold_the_reports_figures():
    text = words(shown())
    for each in report().rows:
        if each.pruner == "router" and each.version in BUDGETS:
            for one in (each.figures, *each.kinds.values()):
                assert f"{100 * one.agreement.mean:.1f}% {100 * one.agreement.low:.1f} to " in text
                assert f"{100 * one.retention.mean:.1f}% {100 * one.retention.low:.1f} to " in text
                assert f" {one.kl.mean:.4f} {one.kl.low:.4f} to ".replace("-", "\u2212") in text
            assert " ".join(f"{100 * use:.0f}" for use in each.layer_use) in text
    for each in costs():
        smaller = "not measured" if each.flops_downscaled is None else f"{100 * each.flops_downscaled:.1f}%"
        ours = f"{100 * each.flops:.1f}% {100 * each.flops_alone:.1f}% {smaller} {100 * each.paper_flops:.1f}%"
        assert ours in text
    assert "not timed" in text  # par-max, static
    assert "The class that is hurt most, by agreement: read (" in text


def test_halves_are_grouped_under_the_version_with_the_same_other_number():
    *groups, others = [
        (group.version.partition(":")[0], [each.version for name, each in group.rows if name != "both"])
        for group in halves(report())
    ]
    assert groups == [
        ("par-max", ["t256-l24"]),
        ("par-lite", ["t144-l24", "t576-l18"]),
        ("par-nano", ["t576-l18"]),
    ]
    assert others == ("Budgets of no version above", ["t64-l24"] * 4)


@pytest.mark.parametrize(
    ("gain", "best", "p", "said"),
    [
        (0.1, 0.2, 0.001, "router wins"),
        (0.1, 0.2, 0.05, "NO WIN SHOWN"),
        (0.1, 0.2, 0.3, "NO WIN SHOWN"),
        (-0.1, 0.1, 0.5, "NO WIN SHOWN"),
        (-0.1, -0.01, 0.99, "ROUTER LOSES"),
        (-0.002, 0.0, 1.0, "NO WIN SHOWN"),  # one question lost and none won: most resamples are worse, many are equal
        (0.0, 0.0, 1.0, "NO WIN SHOWN"),  # equal on every question
        (-0.1, 0.1, 0.001, "NO WIN SHOWN"),
    ],
)
def test_a_verdict_is_a_win_only_with_a_gain_and_p_below_the_limit(gain, best, p, said):
    assert verdict(gain, best, p) == said


def test_comparisons_that_are_not_won_are_marked_in_words():
    text = words(shown())
    section = text[text.index("The router against other pruners") : text.index("Fidelity against cost")]
    rows = section[section.index("By KL") :]
    assert rows.count("NO WIN SHOWN") == 4
    assert rows.count("ROUTER LOSES") == 1
    assert "wins (p < 0.05) 31 of 36 comparisons by agreement and 36 of 36 by KL" in section


def test_curves_take_the_routers_cost_with_it_and_others_without():
    drawn, missing = curves(report(), "agreement", "ttft")
    by_name = {curve.name: curve.points for curve in drawn}
    assert set(by_name) == {"router, dynamic", "router, static", *OTHERS}
    assert missing == ["router, static at par-max"]
    known = [cost for cost in costs() if cost.layer_policy == "dynamic"]
    assert [point.cost for point in by_name["router, dynamic"]] == sorted(cost.ttft for cost in known)
    assert [point.cost for point in by_name["random+random"]] == sorted(cost.ttft_alone for cost in known)
    assert "for want of a figure or a cost: router, static at par-max." in words(shown())


def test_downscaling_is_drawn_at_its_own_flops_and_was_not_timed():
    made = report_of_tiles()
    drawn, _ = curves(made, "agreement", "flops")
    points = {curve.name: curve.points for curve in drawn}["downscale+shortgpt"]
    known = [cost for cost in costs() if cost.layer_policy == "dynamic"]
    assert [point.cost for point in points] == sorted(cost.flops_downscaled for cost in known)
    drawn, missing = curves(made, "agreement", "ttft")
    assert not [curve for curve in drawn if "downscale" in curve.name]
    assert "downscale+shortgpt at par-lite" in missing


def test_fidelity_by_tiles_stands_beside_downscaling_and_the_best_other_pruner():
    made, text = report_of_tiles(), words(shown("tiles"))
    assert "By number of tiles" not in words(shown())
    section = text[text.index("By number of tiles") : text.index("Tokens alone, layers alone")]
    assert "2 tiles (200 questions, 384 image tokens in mean), 3 tiles (300 questions," in section
    assert [line.name for line in tables(made)[2].lines] == [
        "router",
        "router",
        "downscale+shortgpt",
        "downscale+router",
        "fastv+shortgpt (best other)",
    ]
    for group in made.by_tiles:
        for row in group.rows:
            if row.pruner in ("router", "downscale+shortgpt", "fastv+shortgpt"):
                one = row.figures.agreement
                kept = f"{row.kept_tokens:,.0f}" if row.kept_tokens % 1 == 0 else f"{row.kept_tokens:,.1f}"
                assert f"{100 * one.mean:.1f}% {100 * one.low:.1f} to {100 * one.high:.1f} {kept} tokens" in section
    assert "random+random" not in section
    assert "par-lite: agreement with full, by the number of tiles" in section
    assert "576 of 576 tokens" in text
    assert "par-lite" in render(made)
    assert "3 tiles, n 300, N 576" in render(made)


def test_without_a_pruner_of_its_own_there_is_no_best_other():
    rows = tuple(each for each in report_of_tiles().rows if set(each.pruner.split("+")) & {"router", "downscale"})
    assert best_other(report(rows=rows), "par-lite") is None
    assert best_other(report_of_tiles(), "par-lite").pruner == "fastv+shortgpt"


def test_answers_are_graded_as_the_report_grades():
    text = words(shown())
    assert text.count("wrong") == 4  # the pruned versions of the first image; a missing full stop is no fault
    assert text.count("4 7 1 right") == 4


def test_other_numbers_of_questions_are_said():
    few = tuple(
        msgspec.structs.replace(each, figures=figures(0.7, 500)) if each.pruner != "router" else each
        for each in report().rows
    )
    assert "The router was asked 2000 questions, the others 500" in words(page(report(rows=few), [], ""))
    assert "The router was asked" not in words(shown())


def test_figures_are_written_plainly():
    assert (number(-3.14), number(-0.04), number(0.5, 2, "+")) == ("\u22123.1", "0.0", "+0.50")
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert ranges(()) == ""
