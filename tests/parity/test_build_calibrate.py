"""The calibrate command on the tiny bundle, fidelity measured on real engines, and cards that build copies."""

import argparse
import json
import shutil
from dataclasses import replace

import msgspec
import pytest

from allrounder.bundle import open_bundle
from allrounder.calib import fidelity, latency, votes
from allrounder.calib.card import copy_figures, fidelity_of
from allrounder.card import CARD, CARD_SCHEMA, ROUTER, Card, Dataset, Row, write_card
from allrounder.commands.build import add_arguments, request_from
from allrounder.commands.build_job import build_bundle
from allrounder.commands.cli import run_command
from allrounder.errors import CalibrationError
from allrounder.manifest import Estimate, Figures, Recommendation
from allrounder.progress import silent
from allrounder.prompts import read_prompts
from allrounder.runtime import memory
from allrounder.runtime.engine import open_engines
from allrounder.runtime.options import EngineOptions


@pytest.fixture
def calibrate(capsys):
    """Runs the command and returns its exit code, the last line of stdout as JSON, and stderr."""

    def run(bundle, prompts):
        code = run_command("calibrate", [str(bundle), "--calib", str(prompts)])
        printed, told = capsys.readouterr()
        return code, json.loads(printed.splitlines()[-1]) if code == 0 else printed, told

    return run


@pytest.fixture
def own_prompts(tiny, tmp_path):
    """Four prompts of the user's own, of one kind, without answers."""
    lines = [json.dumps({"image": f"{tiny.prompts.parent}/{n}.png", "question": f"how many {n}?"}) for n in range(4)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    return tmp_path / "own.jsonl"


@pytest.fixture(scope="module")
def engines(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    return open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))


def test_calibrating_replaces_all_figures(calibrate, bundle_copy, own_prompts):
    before = open_bundle(bundle_copy).manifest
    code, report, _ = calibrate(bundle_copy, own_prompts)
    assert code == 0
    after = open_bundle(bundle_copy).manifest
    assert after.files == before.files
    for old, new in zip(before.entries, after.entries, strict=True):
        assert new.graphs == old.graphs
        assert new.fidelity.questions == 4
        assert new.fidelity.dataset == read_prompts(own_prompts).name
        assert new.fidelity.retention is None
        assert new.latency != old.latency
    assert [entry["version"] for entry in report["entries"]] == ["full", "par-lite"]


def test_classes_and_accuracies_are_published(calibrate, bundle_copy, tiny):
    code, report, _ = calibrate(bundle_copy, tiny.prompts)
    assert code == 0
    for entry in open_bundle(bundle_copy).manifest.entries:
        kinds = entry.fidelity.kinds
        assert {kind: found.questions for kind, found in kinds.items()} == {"kind 0": 8, "kind 1": 4}
        assert kinds["kind 0"].accuracy is None
        assert kinds["kind 1"].accuracy == entry.fidelity.accuracy is not None
        mean = (8 * kinds["kind 0"].kl.mean + 4 * kinds["kind 1"].kl.mean) / 12
        assert entry.fidelity.kl.mean == pytest.approx(mean)
    assert report["recommendations"] == []


def test_one_policy_alone_is_told_what_to_build(calibrate, bundle_copy, own_prompts, capsys):
    code, report, _ = calibrate(bundle_copy, own_prompts)
    assert code == 0
    (note,) = report["not_compared"]
    assert "only routed is in this bundle" in note
    assert "--version par-lite --layer-policy frozen" in note
    assert f"--out {bundle_copy}" in note
    assert open_bundle(bundle_copy).manifest.recommendations == ()


def test_both_policies_are_compared_and_the_choice_is_published(calibrate, bundle_copy, tiny, capsys):
    from allrounder import build_engine

    assert build_engine.main(tiny.arguments(bundle_copy, "--layer-policy", "frozen")) == 0
    capsys.readouterr()
    assert run_command("calibrate", [str(bundle_copy), "--calib", str(tiny.prompts)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    manifest = open_bundle(bundle_copy).manifest
    (found,) = manifest.recommendations
    agreements = {entry.layer_policy: entry.fidelity.agreement.mean for entry in manifest.entries[1:]}
    assert set(agreements) == {"routed", "frozen"}
    assert found.version == "par-lite"
    assert found.layer_policy == ("frozen" if agreements["frozen"] >= agreements["routed"] - 0.005 else "routed")
    for agreement in agreements.values():
        assert f"{100 * agreement:.1f}%" in found.why
    assert "of full's time" in found.why
    assert report["recommendations"] == [msgspec.to_builtins(found)]
    assert report["not_compared"] == []
    line = f"par-lite: {found.layer_policy} is recommended: {found.why}"
    assert line in printed.splitlines()
    assert run_command("inspect", [str(bundle_copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert line in lines
    assert sum(each.startswith("kind 1 ") for each in lines) == 3  # each class and entry on a line of its own
    assert sum(read_prompts(tiny.prompts).name in each for each in lines) == 3


def test_without_full_there_is_nothing_to_compare_with(calibrate, tiny, tmp_path):
    from allrounder import build_engine

    out = tmp_path / "b"
    assert build_engine.main(tiny.arguments(out)) == 0
    before = open_bundle(out).manifest
    code, _, told = calibrate(out, tiny.prompts)
    assert code == 2
    assert "CalibrationError" in told
    assert "--version full" in told
    assert open_bundle(out).manifest == before


def test_bad_places_are_refused(calibrate, tiny, tmp_path, bundle_copy):
    assert calibrate(tmp_path / "absent", tiny.prompts)[0] == 2
    assert not (tmp_path / "absent").exists()
    (bundle_copy / "graphs" / "extra").write_text("x")
    code, _, told = calibrate(bundle_copy, tiny.prompts)
    assert code == 2
    assert "BundleCorrupt" in told


def test_questions_beyond_the_limit_are_named_before_anything_is_measured(calibrate, tiny, bundle_copy, tmp_path):
    image = str(tiny.prompts.parent / "0.png")
    lines = [{"image": image, "question": "short?"}, {"image": image, "question": "why " * 2000}]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, _, told = calibrate(bundle_copy, tmp_path / "long.jsonl")
    assert code == 2
    assert "PromptsInvalid" in told
    assert "1 questions are too long" in told
    assert "0.png" in told
    assert "fidelity:" not in told


def test_a_picture_that_is_none_is_named(calibrate, bundle_copy, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"not a picture")
    (tmp_path / "torn.jsonl").write_text('{"image": "torn.png", "question": "what?"}')
    code, _, told = calibrate(bundle_copy, tmp_path / "torn.jsonl")
    assert code == 2
    assert "ImageInvalid" in told
    assert "torn.png" in told


def test_prefill_and_forced_decode_of_full_give_its_own_greedy_answer(engines, tiny):
    """Full's graphs under another name are really run, in one decode call: nothing may be lost."""
    full = engines[0]
    (outcomes,) = fidelity.measure(full, [fidelity.Contender(_renamed(full))], read_prompts(tiny.prompts).prompts)
    assert outcomes.agrees.all()
    assert outcomes.kl.max() < 1e-9


def _renamed(engine):
    """The same engine with an entry that the measurement does not recognise as the reference."""
    import copy

    import msgspec

    graphs = msgspec.structs.replace(engine.entry.graphs, prefill="another/name.onnx")
    twin = copy.copy(engine)
    twin.entry = msgspec.structs.replace(engine.entry, graphs=graphs)
    return twin


def test_a_version_differs_from_full(engines, tiny):
    outcomes = fidelity.measure(engines[0], [*map(fidelity.Contender, engines)], read_prompts(tiny.prompts).prompts)
    assert (outcomes[0].kl == 0).all()
    assert (outcomes[1].kl > 0).all()


def test_agreement_is_equality_of_greedy_answers_on_real_engines(engines, tiny):
    full, lite = engines
    prompts = read_prompts(tiny.prompts).prompts
    (outcomes,) = fidelity.measure(full, [fidelity.Contender(lite)], prompts)
    for prompt, agrees in zip(prompts, outcomes.agrees, strict=True):
        assert agrees == (_greedy(full, prompt) == _greedy(lite, prompt))


def _greedy(engine, prompt):
    from allrounder.runtime.image import to_rgb

    ids = engine.prompt(prompt.question)
    visual = engine.see(to_rgb(prompt.image))
    state = engine.prefill(ids, visual, engine.route(ids, visual), room=fidelity.MAX_ANSWER)
    answer = [int(state.logits[0].argmax())]
    while answer[-1] not in engine.model.stop_ids and len(answer) < fidelity.MAX_ANSWER:
        answer.append(int(engine.decode(state, answer[-1:])[0, 0].argmax()))
    return answer


def test_the_vote_needs_a_router_and_prompts(engines, tiny):
    prompts = read_prompts(tiny.prompts).prompts
    full, lite = engines
    assert sorted(votes.layer_order(lite, prompts, 2)) == list(range(2, 8))
    with pytest.raises(CalibrationError, match="router"):
        votes.layer_order(full, prompts, 2)
    with pytest.raises(CalibrationError, match="prompts"):
        votes.layer_order(lite, [], 2)


def test_engines_that_do_not_fit_together_are_timed_apart(tiny_bundle, monkeypatch):
    bundle = open_bundle(tiny_bundle)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    notes = []
    figures = latency.measure(bundle, bundle.manifest.entries, EngineOptions(threads=1), say=notes.append)
    assert len(notes) == 1
    assert all(figure is not None for figure in figures)


def test_a_missing_folder_of_the_bundle_is_an_error_not_a_crash(calibrate, tiny, bundle_copy):
    shutil.rmtree(bundle_copy / "tokenizer")
    code, _, told = calibrate(bundle_copy, tiny.prompts)
    assert code == 2
    assert "BundleCorrupt" in told


# Cards


def card_figures(agreement):
    """Figures that no measurement on the tiny host gives."""
    point = Estimate(mean=agreement, low=agreement - 0.0625, high=agreement + 0.0625)
    return Figures(questions=2000, accuracy=point, retention=None, agreement=point, kl=point)


def card_of(manifest, **changes):
    """A card that speaks of all entries of a bundle."""
    rows = tuple(
        Row(
            pruner=ROUTER,
            version=entry.version,
            tokens=entry.tokens,
            layers=entry.layers,
            layer_policy=entry.layer_policy,
            layer_plan=entry.layer_plan,
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
        "gather_layer": 2,
        "visual_tokens": 16,
        "layers": 8,
        "dataset": Dataset(name="test.jsonl:0", about="made up", questions=2000),
        "full": card_figures(0.75),
        "full_kinds": {"read": card_figures(0.75)},
        "rows": rows,
        "comparisons": (),
        "costs": (),
        "recommendations": (Recommendation(version="par-lite", layer_policy="routed", why="it is closer."),),
    }
    return Card(**facts | changes)


@pytest.fixture(scope="module")
def frozen_manifest(tiny, tmp_path_factory):
    """The manifest of `full` and par-lite, frozen, built where there is no card."""
    from allrounder import build_engine

    out = tmp_path_factory.mktemp("frozen") / "b"
    assert build_engine.main(tiny.arguments(out, "--version", "full,par-lite", "--layer-policy", "frozen")) == 0
    return open_bundle(out).manifest


@pytest.fixture
def build_with(tiny, tmp_path):
    """Builds full and par-lite with a card beside the router; returns the entries, the manifest and what was said.

    The prompts are there as the demo's are: by default, not because someone gave them; or not at all.
    """

    def run(card, policy="routed", *, prompts=True, own=False):
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


def test_a_matching_card_is_copied(build_with, frozen_manifest):
    card = card_of(frozen_manifest)
    (full, lite), manifest, said = build_with(card, "frozen")
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


def with_another_plan(card):
    """The card as if another vote had been held."""
    (row,) = card.rows
    others = sorted(set(range(8)) - set(row.layer_plan))
    changed = tuple(sorted((*row.layer_plan[:-1], others[0])))
    return msgspec.structs.replace(card, rows=(msgspec.structs.replace(row, layer_plan=changed),))


@pytest.mark.parametrize("prompts", [True, False])
def test_frozen_layers_are_those_the_card_was_measured_with(build_with, frozen_manifest, prompts):
    card = with_another_plan(card_of(frozen_manifest))
    (_, lite), manifest, _ = build_with(card, "frozen", prompts=prompts)
    assert lite.layer_plan == card.rows[0].layer_plan != frozen_manifest.entries[1].layer_plan
    assert lite.fidelity.dataset == "test.jsonl:0"
    assert manifest.recommendations == card.recommendations


def test_a_card_does_not_speak_of_another_plan(frozen_manifest):
    card = with_another_plan(card_of(frozen_manifest))
    copied = copy_figures(card, frozen_manifest.entries, frozen_manifest.model)
    full, lite = frozen_manifest.entries
    assert list(copied.figures) == [full.key]  # `full` has no plan to be another
    assert "another layer plan" in " ".join(copied.refused[lite.label])
    assert copied.recommendations == ()


def test_the_plan_of_another_routers_card_is_not_taken(build_with, frozen_manifest):
    card = msgspec.structs.replace(with_another_plan(card_of(frozen_manifest)), router="0" * 64)
    (_, lite), _, said = build_with(card, "frozen")
    assert lite.layer_plan == frozen_manifest.entries[1].layer_plan
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
