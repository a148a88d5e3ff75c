"""The calibrate command on the tiny bundle, and fidelity measured on real engines."""

import json
import shutil

import msgspec
import pytest

from allrounder.calib import fidelity, latency, layer_ranking
from allrounder.chat.messages import question
from allrounder.commands.cli import run_command
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.errors import CalibrationError
from allrounder.prompts import read_prompts
from allrounder.runtime import memory
from allrounder.runtime.engine import open_engines
from allrounder.runtime.image import to_rgb


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
    assert [entry["pruning"]["version"] for entry in report["entries"]] == ["full", "par-lite"]


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
    assert "only dynamic is in this bundle" in note
    assert "--version par-lite --layer-policy static" in note
    assert f"--out {bundle_copy}" in note
    assert open_bundle(bundle_copy).manifest.recommendations == ()


def test_both_policies_are_compared_and_the_choice_is_published(calibrate, bundle_copy, tiny, capsys):
    from allrounder import build_engine

    assert build_engine.main(tiny.arguments(bundle_copy, "--layer-policy", "static")) == 0
    capsys.readouterr()
    assert run_command("calibrate", [str(bundle_copy), "--calib", str(tiny.prompts)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    manifest = open_bundle(bundle_copy).manifest
    (found,) = manifest.recommendations
    agreements = {entry.pruning.layer_policy: entry.fidelity.agreement.mean for entry in manifest.entries[1:]}
    assert set(agreements) == {"dynamic", "static"}
    assert found.version == "par-lite"
    assert found.layer_policy == ("static" if agreements["static"] >= agreements["dynamic"] - 0.005 else "dynamic")
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
    next((bundle_copy / "graphs" / "weights").iterdir()).write_bytes(b"")
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
    assert "1 questions cannot be asked" in told
    assert "0.png" in told
    assert "fidelity:" not in told


def test_a_image_that_is_none_is_named(calibrate, bundle_copy, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"not an image")
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

    graphs = msgspec.structs.replace(engine.entry.graphs, decoder="another/name.onnx")
    flat_copy = copy.copy(engine)
    flat_copy.entry = msgspec.structs.replace(engine.entry, graphs=graphs)
    return flat_copy


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
    layout, image_embeds = engine.layout(question(prompt.question)), engine.embed_image(to_rgb(prompt.image))
    state = engine.prefill(layout, image_embeds, engine.route(layout, image_embeds), free_slots=fidelity.MAX_ANSWER)
    answer = [int(state.logits[0].argmax())]
    while answer[-1] not in engine.model.stop_ids and len(answer) < fidelity.MAX_ANSWER:
        answer.append(int(engine.decode(state, answer[-1:])[0, 0].argmax()))
    return answer


def test_the_ranking_needs_a_router_and_prompts(engines, tiny):
    prompts = read_prompts(tiny.prompts).prompts
    full, lite = engines
    assert sorted(layer_ranking.layer_order(lite, prompts, 2)) == list(range(2, 8))
    with pytest.raises(CalibrationError, match="router"):
        layer_ranking.layer_order(full, prompts, 2)
    with pytest.raises(CalibrationError, match="prompts"):
        layer_ranking.layer_order(lite, [], 2)


def test_engines_that_do_not_fit_together_are_timed_apart(tiny_bundle, monkeypatch):
    bundle = open_bundle(tiny_bundle)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    lines = []
    figures = latency.measure(
        bundle, bundle.manifest.entries, EngineOptions(threads=1), lambda *step: lines.append(step)
    )
    (line,) = [task for task, done, total in lines if not (done or total)]
    assert "one after another" in line
    assert all(figure is not None for figure in figures)


def test_a_missing_folder_of_the_bundle_is_an_error_not_a_crash(calibrate, tiny, bundle_copy):
    shutil.rmtree(bundle_copy / "tokenizer")
    code, _, told = calibrate(bundle_copy, tiny.prompts)
    assert code == 2
    assert "BundleCorrupt" in told
