"""Fidelity cards that `build` copies into bundles on the tiny host, or leaves."""

import argparse
import shutil
from dataclasses import replace

import msgspec
import pytest

from allrounder.calib.card import copy_figures, fidelity_of
from allrounder.card import CARD, CARD_SCHEMA, ROUTER, Card, Dataset, Row, write_card
from allrounder.commands.build import add_arguments, request_from
from allrounder.commands.pipeline.build import build_bundle
from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import CalibrationError
from allrounder.manifest import Estimate, Figures, Recommendation
from allrounder.progress import silent
from allrounder.prompts import read_prompts


def card_figures(agreement):
    """Figures that no measurement on the tiny host gives."""
    point = Estimate(mean=agreement, low=agreement - 0.0625, high=agreement + 0.0625)
    return Figures(questions=2000, accuracy=point, retention=None, agreement=point, kl=point)


def card_of(manifest, **changes):
    """A card that speaks of all entries of a bundle."""
    rows = tuple(
        Row(
            pruner=ROUTER,
            pruning=entry.pruning,
            figures=card_figures(0.5),
            kinds={"read": card_figures(0.25)},
            layer_use=(1.0,) * 8,
        )
        for entry in manifest.entries
        if entry.version != "full"
    )
    facts = {
        "schema": CARD_SCHEMA,
        "producer": "test",
        "model": "tiny",
        "host": manifest.model.host,
        "router": manifest.model.router,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": 2,
        "visual_tokens": 16,
        "layers": 8,
        "dataset": Dataset(name="test.jsonl:0", about="made up", questions=2000),
        "full": card_figures(0.75),
        "full_kinds": {"read": card_figures(0.75)},
        "rows": rows,
        "comparisons": (),
        "costs": (),
        "recommendations": (Recommendation(version="par-lite", layer_policy="dynamic", why="it is closer."),),
    }
    return Card(**facts | changes)


@pytest.fixture(scope="module")
def static_manifest(tiny, tmp_path_factory):
    """The manifest of `full` and par-lite, static, built where there is no card."""
    from allrounder import build_engine

    out = tmp_path_factory.mktemp("frozen") / "b"
    assert build_engine.main(tiny.arguments(out, "--version", "full,par-lite", "--layer-policy", "static")) == 0
    return open_bundle(out).manifest


@pytest.fixture
def build_with(tiny, tmp_path):
    """Builds full and par-lite with a card beside the router; returns the entries, the manifest and what was said.

    The prompts are there as the demo's are: by default, not because someone gave them; or not at all.
    """

    def run(card, policy="dynamic", *, prompts=True, own=False):
        router = tmp_path / "router"
        shutil.copytree(tiny.router, router)
        if isinstance(card, bytes):
            (router / CARD).write_bytes(card)
        else:
            write_card(card, router / CARD)
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        arguments = ["--version", "full,par-lite", "--layer-policy", policy, "--out", str(tmp_path / "b")]
        arguments += ["--model", str(tiny.host), "--router", str(router)]
        request = request_from(parser.parse_args(arguments))
        request = replace(request, calib=tiny.prompts if prompts else None, own_prompts=own)
        said = []
        report = build_bundle(request, silent, said.append)
        return report.entries, open_bundle(tmp_path / "b").manifest, said

    return run


def test_a_matching_card_is_copied(build_with, static_manifest):
    card = card_of(static_manifest)
    (full, lite), manifest, said = build_with(card, "static")
    assert full.fidelity == fidelity_of(card.full, card.full_kinds, "test.jsonl:0")
    assert lite.fidelity == fidelity_of(card_figures(0.5), {"read": card_figures(0.25)}, "test.jsonl:0")
    assert not lite.fidelity.quick
    assert lite.latency is not None
    assert manifest.recommendations == card.recommendations
    assert manifest.entries == (full, lite)
    assert any("no vote is needed" in line for line in said)
    (line,) = [line for line in said if "copied" in line]
    assert "2000 questions, made up" in line
    assert not any(line.startswith("fidelity:") for line in said)  # nothing was measured


def with_other_layers(card):
    """The card as if another vote had been held."""
    (row,) = card.rows
    kept = row.pruning.kept_layers
    others = sorted(set(range(8)) - set(kept))
    changed = msgspec.structs.replace(row.pruning, kept_layers=tuple(sorted((*kept[:-1], others[0]))))
    return msgspec.structs.replace(card, rows=(msgspec.structs.replace(row, pruning=changed),))


@pytest.mark.parametrize("prompts", [True, False])
def test_static_layers_are_those_the_card_was_measured_with(build_with, static_manifest, prompts):
    card = with_other_layers(card_of(static_manifest))
    (_, lite), manifest, _ = build_with(card, "static", prompts=prompts)
    assert lite.pruning == card.rows[0].pruning != static_manifest.entries[1].pruning
    assert lite.fidelity.dataset == "test.jsonl:0"
    assert manifest.recommendations == card.recommendations


def test_a_card_does_not_speak_of_other_layers(static_manifest):
    card = with_other_layers(card_of(static_manifest))
    copied = copy_figures(card, static_manifest.entries, static_manifest.model)
    full, lite = static_manifest.entries
    assert list(copied.figures) == [full.key]  # `full` has no other layers
    assert "another list of kept layers" in " ".join(copied.refused[lite.label])
    assert copied.recommendations == ()


def test_the_layers_of_another_routers_card_are_not_taken(build_with, static_manifest):
    card = msgspec.structs.replace(with_other_layers(card_of(static_manifest)), router="0" * 64)
    (_, lite), _, said = build_with(card, "static")
    assert lite.pruning == static_manifest.entries[1].pruning
    assert (lite.fidelity.questions, lite.fidelity.quick) == (12, True)
    assert any("another router" in line and "a quick figure is measured" in line for line in said)


@pytest.mark.parametrize(("changed", "reason"), [("host", "another host"), ("router", "another router")])
def test_another_host_or_router_is_not_copied_and_said(build_with, tiny_bundle, changed, reason):
    card = card_of(open_bundle(tiny_bundle).manifest, **{changed: "0" * 64})
    (full, lite), manifest, said = build_with(card, prompts=False)
    assert lite.fidelity is None
    assert (full.fidelity is None) == (changed == "host")
    assert manifest.recommendations == ()
    notes = [line for line in said if reason in line]
    assert len(notes) == (2 if changed == "host" else 1)
    assert all("none is measured without prompts" in note for note in notes)


def test_without_prompts_a_card_is_what_there_is(build_with, tiny_bundle):
    card = card_of(open_bundle(tiny_bundle).manifest)
    (full, lite), _, said = build_with(card, prompts=False)
    assert full.fidelity.agreement == card.full.agreement
    assert lite.fidelity.agreement == card.rows[0].figures.agreement
    assert not any("no prompts" in line for line in said)


def test_prompts_that_were_asked_for_are_measured_whatever_the_card_says(build_with, tiny_bundle, tiny):
    card = card_of(open_bundle(tiny_bundle).manifest)
    (full, lite), _, said = build_with(card, own=True)
    for entry in (full, lite):
        assert (entry.fidelity.dataset, entry.fidelity.quick) == (read_prompts(tiny.prompts).name, True)
    assert sum("is not read" in line for line in said) == 1


def test_an_unreadable_card_is_refused_before_anything_is_built(build_with, tmp_path):
    with pytest.raises(CalibrationError, match=CARD):
        build_with(b"{}")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("more", "own"), [((), False), (("--calib", "mine.jsonl"), True)])
def test_the_demos_own_prompts_are_nobodys_wish(more, own):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    request = request_from(parser.parse_args(list(more)))
    assert request.own_prompts == own
    assert request.calib is not None
