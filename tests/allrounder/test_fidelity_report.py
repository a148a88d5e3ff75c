"""The fidelity report: round trips, what is refused, and of which entries it speaks."""

import json

import msgspec
import pytest
from image_plans import fixed_plan
from prunings import pruning

from allrounder.errors import BundleCorrupt, CalibrationError
from allrounder.fidelity_report import (
    REPORT,
    REPORT_SCHEMA,
    ROUTER,
    Comparison,
    Cost,
    Dataset,
    FidelityReport,
    Row,
    Tiles,
    TilesRow,
    read_report,
    write_report,
)
from allrounder.manifest import Entry, EntryGraphs, Estimate, Figures, Model, Recommendation

MODEL, OTHER = "a" * 64, "b" * 64
POINT = Estimate(mean=0.5, low=0.25, high=0.75)
KEPT = (0, 1, 4, 5)


def made_figures(mean=0.5):
    return Figures(
        questions=2000, accuracy=POINT, retention=None, agreement=POINT, kl=Estimate(mean=mean, low=0, high=1)
    )


def made_row(policy, pruner=ROUTER, **changes):
    facts = {
        "pruner": pruner,
        "pruning": pruning((5, 4), 2, KEPT if policy == "static" else None, "par-lite"),
        "figures": made_figures(len(pruner) + len(policy)),
        "kinds": {"read": made_figures(0.7)},
        "layer_use": (1.0, 0.25),
        "kept_tokens": 5.0,
    }
    return Row(**facts | changes)


def made_report(**changes):
    facts = {
        "schema": REPORT_SCHEMA,
        "producer": "test",
        "model": "demo",
        "model_digest": MODEL,
        "router": OTHER,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": 2,
        "image_tokens": 18,
        "layers": 6,
        "dataset": Dataset(name="prompts.jsonl:0", about="made up", questions=2000),
        "full": made_figures(0.0),
        "full_kinds": {"read": made_figures(0.0)},
        "rows": (made_row("dynamic", "random+random"), made_row("dynamic"), made_row("static")),
        "comparisons": (
            Comparison(
                version="par-lite",
                pruner="random+random",
                questions=2000,
                difference=POINT,
                p=0.0005,
                kl_difference=POINT,
                kl_p=1.0,
                kept_tokens=5.0,
                other_kept_tokens=4.5,
            ),
        ),
        "costs": (
            Cost(
                version="par-lite",
                layer_policy="static",
                flops=0.3,
                flops_alone=0.2,
                paper_flops=0.4,
                ttft=0.5,
                ttft_alone=None,
                flops_downscaled=0.1,
            ),
        ),
        "recommendations": (Recommendation(version="par-lite", layer_policy="static", why="because."),),
        "by_tiles": (
            Tiles(
                tiles=3,
                questions=9,
                image_tokens=18.5,
                rows=(
                    TilesRow(
                        pruner="downscale+none",
                        version="par-lite",
                        layer_policy="static",
                        kept_tokens=4.5,
                        figures=made_figures(),
                    ),
                ),
            ),
        ),
    }
    return FidelityReport(**facts | changes)


def made_entry(policy="dynamic", pruned=None, **changes):
    kept = pruning((5, 4), 2, KEPT if policy == "static" else None, "par-lite")
    facts = {
        "pruning": msgspec.structs.replace(kept, **pruned or {}),
        "backend": "onnxruntime",
        "precision": "fp32",
        "graphs": EntryGraphs(vision="v", router="r", decoder="d"),
        "fidelity": None,
        "latency": None,
    }
    return Entry(**facts | changes)


def made_full(**changes):
    return made_entry(pruning=pruning((1, 6), 0, tuple(range(6)), "full"), **changes)


def made_model(**changes):
    facts = {
        "name": "another name",
        "digest": MODEL,
        "router": OTHER,
        "images": fixed_plan(18),
        "image_token_id": 3,
        "layers": 6,
        "max_positions": 64,
        "hidden": 8,
        "vocabulary": 32,
        "stop_ids": (2,),
    }
    return Model(**facts | changes)


def test_a_report_comes_back_and_equal_reports_give_equal_bytes(tmp_path):
    one, two = tmp_path / REPORT, tmp_path / "two.json"
    write_report(made_report(), one)
    assert read_report(one) == made_report()
    write_report(read_report(one), two)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [REPORT, "two.json"]


@pytest.mark.parametrize(
    ("pruner", "policy", "cost"),
    [
        (ROUTER, "static", (0.3, 0.5)),
        ("random+random", "static", (0.2, None)),
        ("downscale+random", "static", (0.1, None)),
        (ROUTER, "dynamic", (None, None)),
    ],
)
def test_what_a_row_costs(pruner, policy, cost):
    assert made_report().cost(made_row(policy, pruner)) == cost


def test_a_report_that_holds_no_number_is_not_written_over_one_that_does(tmp_path):
    write_report(made_report(), tmp_path / REPORT)
    with pytest.raises(BundleCorrupt):
        write_report(made_report(full=made_figures(float("nan"))), tmp_path / REPORT)
    assert read_report(tmp_path / REPORT) == made_report()


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: plain | {"schema": 1},
        lambda plain: plain | {"surprise": 1},
        lambda plain: plain | {"model_digest": "short"},
        lambda plain: plain | {"rows": [plain["rows"][0] | {"layer_use": [1.5]}]},
        lambda plain: plain | {"comparisons": [plain["comparisons"][0] | {"p": -0.1}]},
        lambda plain: {name: plain[name] for name in plain if name != "dataset"},
        lambda plain: [plain],
    ],
)
def test_what_is_no_report_is_refused(tmp_path, damage):
    path = tmp_path / REPORT
    path.write_text(json.dumps(damage(msgspec.to_builtins(made_report()))))
    with pytest.raises(CalibrationError, match=REPORT) as refused:
        read_report(path)
    assert "delete it" in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, None])
def test_noise_is_refused(tmp_path, data):
    path = tmp_path / REPORT
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CalibrationError):
        read_report(path)


@pytest.mark.parametrize("policy", ["dynamic", "static"])
def test_a_report_speaks_of_what_was_measured(policy):
    report, entry = made_report(), made_entry(policy)
    row = report.row("par-lite", policy)
    assert row.pruner == ROUTER
    assert report.figures_of(entry, made_model()) == (row.figures, row.kinds)
    assert report.differences(entry, made_model()) == ()


@pytest.mark.parametrize(
    ("entry", "model", "reason"),
    [
        ({}, {"digest": OTHER}, "another model"),
        ({}, {"router": MODEL}, "another router"),
        ({}, {"router": None}, "another router"),
        ({"backend": "tensorrt"}, {}, "another backend"),
        ({"precision": "fp16"}, {}, "another precision"),
        ({"pruned": {"prune_layer": 0}}, {}, "another prune layer"),
        ({"pruned": {"keep": "6"}}, {}, "another keep rule"),
        ({"pruned": {"layers": 5}}, {}, "another number of decoder layers"),
        ({"pruned": {"kept_layers": (0, 1, 2, 3)}}, {}, "another list of kept layers"),
        ({"pruned": {"version": "par-nano"}}, {}, "no row for par-nano, static"),
    ],
)
def test_a_report_does_not_speak_of_anything_else(entry, model, reason):
    changed, of = made_entry("static", **entry), made_model(**model)
    report = made_report()
    assert report.figures_of(changed, of) is None
    assert len(report.differences(changed, of)) == 1
    assert reason in report.differences(changed, of)[0]


def test_full_needs_no_router_and_no_prune_layer():
    report = made_report()
    for model in (made_model(), made_model(router=None), made_model(router=MODEL)):
        assert report.figures_of(made_full(), model) == (report.full, report.full_kinds)
    assert report.figures_of(made_full(), made_model(digest=OTHER)) is None
    assert report.differences(made_full(precision="fp16"), made_model()) == ("another precision",)


def test_other_pruners_rows_are_never_an_entrys():
    report = made_report(rows=(made_row("dynamic", "random+random"),))
    assert report.row("par-lite", "dynamic", "random+random") is not None
    assert report.figures_of(made_entry(), made_model()) is None
