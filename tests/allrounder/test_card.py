"""The fidelity card: round trips, what is refused, and of which entries it speaks."""

import json

import msgspec
import pytest
from prunings import pruning

from allrounder.card import (
    CARD,
    CARD_SCHEMA,
    ROUTER,
    Card,
    Comparison,
    Cost,
    Dataset,
    Row,
    read_card,
    write_card,
)
from allrounder.errors import BundleCorrupt, CalibrationError
from allrounder.manifest import Entry, EntryGraphs, Estimate, Figures, Model, Recommendation

HOST, OTHER = "a" * 64, "b" * 64
POINT = Estimate(mean=0.5, low=0.25, high=0.75)
PLAN = (0, 1, 4, 5)


def made_figures(mean=0.5):
    return Figures(
        questions=2000, accuracy=POINT, retention=None, agreement=POINT, kl=Estimate(mean=mean, low=0, high=1)
    )


def made_row(policy, pruner=ROUTER, **changes):
    facts = {
        "pruner": pruner,
        "pruning": pruning((5, 4), 2, PLAN if policy == "static" else None, "par-lite"),
        "figures": made_figures(len(pruner) + len(policy)),
        "kinds": {"read": made_figures(0.7)},
        "layer_use": (1.0, 0.25),
    }
    return Row(**facts | changes)


def made_card(**changes):
    facts = {
        "schema": CARD_SCHEMA,
        "producer": "test",
        "model": "demo",
        "host": HOST,
        "router": OTHER,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": 2,
        "visual_tokens": 18,
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
            ),
        ),
        "recommendations": (Recommendation(version="par-lite", layer_policy="static", why="because."),),
    }
    return Card(**facts | changes)


def made_entry(policy="dynamic", pruned=None, **changes):
    kept = pruning((5, 4), 2, PLAN if policy == "static" else None, "par-lite")
    facts = {
        "pruning": msgspec.structs.replace(kept, **pruned or {}),
        "backend": "onnxruntime",
        "precision": "fp32",
        "graphs": EntryGraphs(preprocess="p", vision="v", router="r", prefill="x", decode="d"),
        "fidelity": None,
        "latency": None,
    }
    return Entry(**facts | changes)


def made_full(**changes):
    return made_entry(pruning=pruning((18, 6), 0, tuple(range(6)), "full"), **changes)


def made_model(**changes):
    facts = {
        "name": "another name",
        "host": HOST,
        "router": OTHER,
        "visual_tokens": 18,
        "layers": 6,
        "hidden": 8,
        "vocabulary": 32,
        "image_size": 14,
        "stop_ids": (2,),
    }
    return Model(**facts | changes)


def test_a_card_comes_back_and_equal_cards_give_equal_bytes(tmp_path):
    one, two = tmp_path / CARD, tmp_path / "two.json"
    write_card(made_card(), one)
    assert read_card(one) == made_card()
    write_card(read_card(one), two)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, "two.json"]


def test_a_card_that_holds_no_number_is_not_written_over_one_that_does(tmp_path):
    write_card(made_card(), tmp_path / CARD)
    with pytest.raises(BundleCorrupt):
        write_card(made_card(full=made_figures(float("nan"))), tmp_path / CARD)
    assert read_card(tmp_path / CARD) == made_card()


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: plain | {"schema": 2},
        lambda plain: plain | {"surprise": 1},
        lambda plain: plain | {"host": "short"},
        lambda plain: plain | {"rows": [plain["rows"][0] | {"layer_use": [1.5]}]},
        lambda plain: plain | {"comparisons": [plain["comparisons"][0] | {"p": -0.1}]},
        lambda plain: {name: plain[name] for name in plain if name != "dataset"},
        lambda plain: [plain],
    ],
)
def test_what_is_no_card_is_refused(tmp_path, damage):
    path = tmp_path / CARD
    path.write_text(json.dumps(damage(msgspec.to_builtins(made_card()))))
    with pytest.raises(CalibrationError, match=CARD) as refused:
        read_card(path)
    assert "delete it" in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, None])
def test_noise_is_refused(tmp_path, data):
    path = tmp_path / CARD
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CalibrationError):
        read_card(path)


@pytest.mark.parametrize("policy", ["dynamic", "static"])
def test_a_card_speaks_of_what_was_measured(policy):
    card, entry = made_card(), made_entry(policy)
    row = card.row_of(entry, made_model())
    assert row == card.row("par-lite", policy)
    assert row.pruner == ROUTER
    assert card.figures_of(entry, made_model()) == (row.figures, row.kinds)
    assert card.differences(entry, made_model()) == ()


@pytest.mark.parametrize(
    ("entry", "model", "reason"),
    [
        ({}, {"host": OTHER}, "another host"),
        ({}, {"router": HOST}, "another router"),
        ({}, {"router": None}, "another router"),
        ({"backend": "tensorrt"}, {}, "another backend"),
        ({"precision": "fp16"}, {}, "another precision"),
        ({"pruned": {"prune_layer": 0}}, {}, "another prune layer"),
        ({"pruned": {"keep": 6}}, {}, "another number of visual tokens"),
        ({"pruned": {"layers": 5}}, {}, "another number of decoder layers"),
        ({"pruned": {"kept_layers": (0, 1, 2, 3)}}, {}, "another list of kept layers"),
        ({"pruned": {"version": "par-nano"}}, {}, "no row for par-nano, static"),
    ],
)
def test_a_card_does_not_speak_of_anything_else(entry, model, reason):
    changed, of = made_entry("static", **entry), made_model(**model)
    card = made_card()
    assert card.row_of(changed, of) is None
    assert card.figures_of(changed, of) is None
    assert len(card.differences(changed, of)) == 1
    assert reason in card.differences(changed, of)[0]


def test_full_needs_no_router_and_no_prune_layer():
    card = made_card()
    for model in (made_model(), made_model(router=None), made_model(router=HOST)):
        assert card.figures_of(made_full(), model) == (card.full, card.full_kinds)
        assert card.row_of(made_full(), model) is None
    assert card.figures_of(made_full(), made_model(host=OTHER)) is None
    assert card.differences(made_full(precision="fp16"), made_model()) == ("another precision",)


def test_other_pruners_rows_are_never_an_entrys():
    card = made_card(rows=(made_row("dynamic", "random+random"),))
    assert card.row("par-lite", "dynamic", "random+random") is not None
    assert card.row_of(made_entry(), made_model()) is None
