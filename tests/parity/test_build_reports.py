"""Fidelity reports that `build` copies into bundles on the tiny model, or leaves."""

import argparse
import shutil
from dataclasses import replace

import msgspec
import pytest

from allrounder.calib.figures import copy_figures, fidelity_of
from allrounder.commands.build import add_arguments, request_from
from allrounder.commands.pipeline.build import build_bundle
from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import REPORT, REPORT_SCHEMA, ROUTER, Dataset, FidelityReport, Row, write_report
from allrounder.manifest import Estimate, Figures, Recommendation
from allrounder.prompts import read_prompts


def report_figures(agreement):
    """Figures that no measurement on the tiny model gives."""
    point = Estimate(mean=agreement, low=agreement - 0.0625, high=agreement + 0.0625)
    return Figures(questions=2000, accuracy=point, retention=None, agreement=point, kl=point)


def report_of(manifest, **changes):
    """A report that speaks of all entries of a bundle."""
    rows = tuple(
        Row(
            pruner=ROUTER,
            pruning=entry.pruning,
            figures=report_figures(0.5),
            kinds={"read": report_figures(0.25)},
            layer_use=(1.0,) * 8,
            kept_tokens=4.0,
        )
        for entry in manifest.entries
        if entry.version != "full"
    )
    facts = {
        "schema": REPORT_SCHEMA,
        "producer": "test",
        "model": "tiny",
        "model_digest": manifest.model.digest,
        "router": manifest.model.router,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": 2,
        "image_tokens": 16,
        "layers": 8,
        "dataset": Dataset(name="test.jsonl:0", about="made up", questions=2000),
        "full": report_figures(0.75),
        "full_kinds": {"read": report_figures(0.75)},
        "rows": rows,
        "comparisons": (),
        "costs": (),
        "recommendations": (Recommendation(version="par-lite", layer_policy="dynamic", why="it is closer."),),
        "by_tiles": (),
    }
    return FidelityReport(**facts | changes)


@pytest.fixture(scope="module")
def static_manifest(tiny, tmp_path_factory):
    """The manifest of `full` and par-lite, static, built where there is no report."""
    from allrounder import build_engine

    out = tmp_path_factory.mktemp("frozen") / "b"
    assert build_engine.main(tiny.arguments(out, "--version", "full,par-lite", "--layer-policy", "static")) == 0
    return open_bundle(out).manifest


@pytest.fixture
def build_with(tiny, tmp_path):
    """Builds full and par-lite with a report beside the router; returns the entries, the manifest and what was said.

    The prompts are there as the demo's are: by default, not because someone gave them; or not at all.
    """

    def run(report, policy="dynamic", *, prompts=True, own=False):
        router = tmp_path / "router"
        shutil.copytree(tiny.router, router)
        if isinstance(report, bytes):
            (router / REPORT).write_bytes(report)
        else:
            write_report(report, router / REPORT)
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        arguments = ["--version", "full,par-lite", "--layer-policy", policy, "--out", str(tmp_path / "b")]
        arguments += ["--model", str(tiny.vlm), "--router", str(router)]
        request = request_from(parser.parse_args(arguments))
        request = replace(request, calib=tiny.prompts if prompts else None, own_prompts=own)
        said = []
        summary = build_bundle(request, lambda line, done, total: None if done or total else said.append(line))
        return summary.entries, open_bundle(tmp_path / "b").manifest, said

    return run


def test_a_matching_report_is_copied(build_with, static_manifest):
    report = report_of(static_manifest)
    (full, lite), manifest, said = build_with(report, "static")
    assert full.fidelity == fidelity_of(report.full, report.full_kinds, "test.jsonl:0")
    assert lite.fidelity == fidelity_of(report_figures(0.5), {"read": report_figures(0.25)}, "test.jsonl:0")
    assert not lite.fidelity.quick
    assert lite.latency is not None
    assert manifest.recommendations == report.recommendations
    assert manifest.entries == (full, lite)
    assert any("no ranking is needed" in line for line in said)
    (line,) = [line for line in said if "copied" in line]
    assert "2000 questions, made up" in line
    assert not any(line.startswith("fidelity:") for line in said)  # nothing was measured


def with_other_layers(report):
    """The report as if another ranking had been held."""
    (row,) = report.rows
    kept = row.pruning.kept_layers
    others = sorted(set(range(8)) - set(kept))
    changed = msgspec.structs.replace(row.pruning, kept_layers=tuple(sorted((*kept[:-1], others[0]))))
    return msgspec.structs.replace(report, rows=(msgspec.structs.replace(row, pruning=changed),))


@pytest.mark.parametrize("prompts", [True, False])
def test_static_layers_are_those_the_report_was_measured_with(build_with, static_manifest, prompts):
    report = with_other_layers(report_of(static_manifest))
    (_, lite), manifest, _ = build_with(report, "static", prompts=prompts)
    assert lite.pruning == report.rows[0].pruning != static_manifest.entries[1].pruning
    assert lite.fidelity.dataset == "test.jsonl:0"
    assert manifest.recommendations == report.recommendations


def test_a_report_does_not_speak_of_other_layers(static_manifest):
    report = with_other_layers(report_of(static_manifest))
    copied = copy_figures(report, static_manifest.entries, static_manifest.model)
    full, lite = static_manifest.entries
    assert list(copied.figures) == [full.key]  # `full` has no other layers
    assert "another list of kept layers" in " ".join(copied.refused[lite.label])
    assert copied.recommendations == ()


def test_the_layers_of_another_routers_report_are_not_taken(build_with, static_manifest):
    report = msgspec.structs.replace(with_other_layers(report_of(static_manifest)), router="0" * 64)
    (_, lite), _, said = build_with(report, "static")
    assert lite.pruning == static_manifest.entries[1].pruning
    assert (lite.fidelity.questions, lite.fidelity.quick) == (12, True)
    assert any("another router" in line and "a quick figure is measured" in line for line in said)


@pytest.mark.parametrize(("changed", "reason"), [("model_digest", "another model"), ("router", "another router")])
def test_another_model_or_router_is_not_copied_and_said(build_with, tiny_bundle, changed, reason):
    report = report_of(open_bundle(tiny_bundle).manifest, **{changed: "0" * 64})
    (full, lite), manifest, said = build_with(report, prompts=False)
    assert lite.fidelity is None
    assert (full.fidelity is None) == (changed == "model_digest")
    assert manifest.recommendations == ()
    notes = [line for line in said if reason in line]
    assert len(notes) == (2 if changed == "model_digest" else 1)
    assert all("none is measured without prompts" in note for note in notes)


def test_without_prompts_a_report_is_what_there_is(build_with, tiny_bundle):
    report = report_of(open_bundle(tiny_bundle).manifest)
    (full, lite), _, said = build_with(report, prompts=False)
    assert full.fidelity.agreement == report.full.agreement
    assert lite.fidelity.agreement == report.rows[0].figures.agreement
    assert not any("no prompts" in line for line in said)


def test_prompts_that_were_asked_for_are_measured_whatever_the_report_says(build_with, tiny_bundle, tiny):
    report = report_of(open_bundle(tiny_bundle).manifest)
    (full, lite), _, said = build_with(report, own=True)
    for entry in (full, lite):
        assert (entry.fidelity.dataset, entry.fidelity.quick) == (read_prompts(tiny.prompts).name, True)
    assert sum("is not read" in line for line in said) == 1


def test_an_unreadable_report_is_refused_before_anything_is_built(build_with, tmp_path):
    with pytest.raises(CalibrationError, match=REPORT):
        build_with(b"{}")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("more", "own"), [((), False), (("--calib", "mine.jsonl"), True)])
def test_the_demos_own_prompts_are_nobodys_wish(more, own):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    request = request_from(parser.parse_args(list(more)))
    assert request.own_prompts == own
    assert request.calib is not None
