"""The build command on a tiny random model: what it builds, what it keeps, what it refuses."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from prunings import pruning

from allrounder import build_engine
from allrounder.calib.layer_ranking import ranked
from allrounder.commands.pipeline import build as build_job
from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import InputInvalid, PromptTooLong
from allrounder.manifest import Limits, Manifest
from allrounder.pruning import PruningConfig
from allrounder.runtime import Runtime
from allrounder.versions import VERSIONS


@pytest.fixture
def build(tiny, capsys):
    """Runs the command and returns its exit code, the last line of stdout as JSON, and stderr."""

    def run(out, *more, **changed):
        arguments = tiny._replace(**changed).arguments(out, *more)
        code = build_engine.main(arguments)
        printed, told = capsys.readouterr()
        return code, json.loads(printed.splitlines()[-1]) if code == 0 else printed, told

    return run


def manifest_of(path) -> Manifest:
    return open_bundle(path).manifest


def left_beside(path):
    return sorted(each.name for each in path.parent.iterdir() if each.name != path.name)


def test_the_bundle_holds_what_was_asked_for(tiny_bundle):
    manifest = manifest_of(tiny_bundle)
    full, lite = manifest.entries
    assert (full.pruning, full.graphs.router) == (pruning((1, 8), 0, tuple(range(8)), "full"), None)
    assert lite.pruning == pruning(("1/4", 6), 2, None, "par-lite")
    for entry in manifest.entries:
        assert entry.fidelity is not None
        assert entry.fidelity.quick
        assert entry.fidelity.questions == 12
        assert entry.fidelity.dataset.startswith("prompts.jsonl:")
        assert entry.latency is not None
        assert 0 < entry.latency.ttft_ms.p50 <= entry.latency.ttft_ms.p99
    assert full.fidelity.agreement.mean == 1.0
    assert full.fidelity.kl.mean == 0.0
    assert lite.fidelity.kl.low > 0.0
    assert left_beside(tiny_bundle) == []


def test_the_bundle_answers(tiny_bundle):
    rgb = np.random.default_rng(1).integers(0, 256, (40, 52, 3), np.uint8)
    with Runtime.load(tiny_bundle, version="par-lite") as runtime:
        answer = runtime.generate(rgb, "what is it?", max_new_tokens=4)
    assert len(answer.keep_indices) == 4
    assert len(answer.kept_layers) == 6
    assert answer.kept_layers[:2] == (0, 1)


def test_the_last_line_tells_bundle_entries_and_seconds(build, tiny, tmp_path):
    out = tmp_path / "deep" / "bundle"
    code, report, told = build(out, "--version", "par-nano")
    assert code == 0
    assert report["bundle"] == str(out)
    assert [entry["pruning"]["version"] for entry in report["entries"]] == ["par-nano"]
    assert sum(report["phases"].values()) <= report["seconds"] + 0.1
    assert "fidelity" in told
    # The reference was frozen, and is gone: nobody asked for full.
    assert [entry.version for entry in manifest_of(out).entries] == ["par-nano"]
    assert left_beside(out) == []


def test_both_policies_are_built_where_nobody_asks_for_one(tiny, tmp_path, capsys):
    paths = ["--model", str(tiny.vlm), "--router", str(tiny.router), "--out", str(tmp_path / "b")]
    versions = ["--version", "full,par-lite", "--keep", "0.25"]
    assert build_engine.main([*paths, *versions, "--calib", str(tiny.prompts)]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(entry["pruning"]["version"], entry["pruning"]["layer_policy"]) for entry in report["entries"]] == [
        ("full", "static"),
        ("par-lite", "static"),
        ("par-lite", "dynamic"),
        ("t0.25-l8", "static"),  # it keeps every layer: there is nothing to choose
    ]
    assert [entry.pruning for entry in manifest_of(tmp_path / "b").entries] == [
        msgspec.convert(entry["pruning"], PruningConfig) for entry in report["entries"]
    ]


def test_adding_keeps_what_is_there(build, bundle_copy):
    before = manifest_of(bundle_copy)
    code, report, _ = build(bundle_copy, "--version", "par-max,par-lite", "--keep", "9", "--layers", "7")
    assert code == 0
    assert [entry["pruning"]["version"] for entry in report["entries"]] == ["par-lite", "par-max", "t9-l7"]
    after = manifest_of(bundle_copy)
    assert [entry.version for entry in after.entries] == ["full", "par-lite", "par-max", "t9-l7"]
    assert before.files.items() <= after.files.items()
    for old, new in zip(before.entries, after.entries, strict=False):
        assert (new.graphs, new.fidelity) == (old.graphs, old.fidelity)


def test_limits_are_what_flags_say_and_stay_what_they_were(build, tmp_path):
    flags = ("--max-images", "2", "--max-text-tokens", "70", "--max-new-tokens", "9", "--max-batch", "3")
    assert build(tmp_path / "b", *flags)[0] == 0
    limits = manifest_of(tmp_path / "b").limits
    assert limits == Limits(images=2, image_tokens=32, text_tokens=70, new_tokens=9, batch=3)
    assert build(tmp_path / "b", "--version", "par-nano")[0] == 0
    assert manifest_of(tmp_path / "b").limits == limits
    code, _, told = build(tmp_path / "b", "--version", "full", "--max-new-tokens", "10")
    assert code == 2
    assert "this bundle was made with another limits" in told
    with Runtime.load(tmp_path / "b") as runtime:
        rgb = np.zeros((9, 9, 3), np.uint8)
        parts = [*[{"type": "image", "image": rgb}] * 3, {"type": "text", "text": "which?"}]
        with pytest.raises(PromptTooLong, match="--max-images"):
            runtime.chat([{"role": "user", "content": parts}])
        with pytest.raises(PromptTooLong, match="--max-text-tokens"):
            runtime.generate(rgb, "why? " * 70)
        with pytest.raises(PromptTooLong, match="--max-new-tokens"):
            runtime.generate(rgb, "why?", max_new_tokens=10)
        with pytest.raises(InputInvalid, match="--max-batch"):
            runtime.scheduler(4)


def test_all_versions_share_the_weights(build, bundle_copy):
    code, _, _ = build(bundle_copy, "--version", "all")
    assert code == 0
    manifest = manifest_of(bundle_copy)
    assert {entry.version for entry in manifest.entries} == set(VERSIONS)
    weights = [path for path in manifest.files if path.startswith("graphs/weights/")]
    assert len(weights) == 2  # the model's and the router's
    assert len({entry.graphs.decoder for entry in manifest.entries if entry.version != "full"}) == 1


def test_building_again_changes_nothing_and_force_measures_again(build, bundle_copy):
    before = manifest_of(bundle_copy)
    code, report, told = build(bundle_copy, "--version", "par-lite")
    assert code == 0
    assert manifest_of(bundle_copy) == before
    assert "fidelity" not in report["phases"]
    assert "already" in told
    code, report, _ = build(bundle_copy, "--version", "par-lite", "--force")
    assert code == 0
    assert "fidelity" in report["phases"]
    after = manifest_of(bundle_copy)
    assert after.entries[1].fidelity == before.entries[1].fidelity  # same graphs, same prompts
    assert after.entries[1].latency != before.entries[1].latency


def test_an_entry_that_asks_for_the_native_op_is_measured_anew(build, bundle_copy, monkeypatch):
    monkeypatch.setattr(build_job, "ort_ops", lambda: None)
    before = manifest_of(bundle_copy)
    code, report, told = build(bundle_copy, "--version", "full,par-lite", "--native-op")
    assert code == 0
    assert "note: the native gather op is not installed here" in told
    assert "fidelity" in report["phases"]
    after = manifest_of(bundle_copy)
    assert [entry.native_op for entry in after.entries] == [False, True]  # `full` gathers nothing
    for old, new in zip(before.entries, after.entries, strict=True):
        assert (new.key, new.graphs, new.fidelity) == (old.key, old.graphs, old.fidelity)


def test_the_native_op_is_for_onnxruntime(build, tmp_path):
    code, printed, told = build(tmp_path / "b", "--native-op", "--backend", "checkpoint")
    assert (code, printed) == (2, "")
    assert "--native-op" in told


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_static_layers_come_from_the_ranking_and_nest(build, tmp_path, prune_layer, precision):
    more = ("--layer-policy", "static", "--prune-layer", str(prune_layer), "--precision", precision)
    code, _, told = build(tmp_path / "b", "--version", "par-max,par-lite", *more)
    assert code == 0
    assert "layer ranking" in told
    large, small = manifest_of(tmp_path / "b").entries
    assert (large.pruning.layers, small.pruning.layers) == (7, 6)
    assert set(small.pruning.kept_layers) < set(large.pruning.kept_layers)
    assert set(range(prune_layer)) <= set(small.pruning.kept_layers)
    dropped = set(range(8)) - set(small.pruning.kept_layers)
    order = [*(set(range(prune_layer, 8)) - dropped), *dropped]
    assert ranked(msgspec.structs.replace(small.pruning, kept_layers=None), order) == small.pruning
    for entry in (large, small):
        assert (entry.latency is None) == (precision == "fp16")  # on a CPU its latency says nothing
        assert entry.fidelity.kl.mean > 0


def test_without_prompts_nothing_is_measured_against_full_and_that_is_said(tiny, tmp_path, capsys):
    paths = ["--model", str(tiny.vlm), "--router", str(tiny.router), "--out", str(tmp_path / "b")]
    assert build_engine.main(paths) == 0
    told = capsys.readouterr().err
    assert "no fidelity" in told
    assert "only dynamic layers are built; for static ones give --calib FILE, or a router with a report" in told
    (entry,) = manifest_of(tmp_path / "b").entries
    assert (entry.version, entry.pruning.layer_policy, entry.fidelity) == ("par-lite", "dynamic", None)
    assert entry.latency is not None
    for policy in ("static", "both"):
        assert build_engine.main([*paths[:-1], str(tmp_path / "c"), "--layer-policy", policy]) == 2
        told = capsys.readouterr().err
        assert "--calib" in told
        assert "--layer-policy dynamic" in told
        assert not (tmp_path / "c").exists()


def test_what_does_not_fit_into_memory_is_said_and_not_tried(build, tmp_path, monkeypatch):
    from allrounder.runtime import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    code, _, told = build(tmp_path / "b", "--precision", "fp16")  # widened to fp32 on a CPU, four times its size
    assert code == 0
    assert "note: fidelity is not measured: fp16 on this machine needs about" in told
    (entry,) = manifest_of(tmp_path / "b").entries
    assert (entry.fidelity, entry.latency) == (None, None)
    code, _, told = build(tmp_path / "c", "--precision", "fp16", "--layer-policy", "static")
    assert code == 2
    assert "the layer ranking cannot be run" in told
    assert not (tmp_path / "c").exists()


def test_full_alone_needs_no_router(tiny, tmp_path, capsys):
    arguments = ["--model", str(tiny.vlm), "--calib", str(tiny.prompts), "--out", str(tmp_path / "b")]
    assert build_engine.main([*arguments, "--version", "full"]) == 0
    assert manifest_of(tmp_path / "b").model.router is None
    capsys.readouterr()
    assert build_engine.main([*arguments, "--version", "full,par-lite"]) == 2
    assert "allrounder train-router" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--version", "par-lit"], "no version 'par-lit'"),
        (["--version", "t0-l3"], "t0-l3"),
        (["--version", ""], "no version"),
        (["--version", "t.000-l3"], "a share of nothing"),
        (["--keep", "4", "--layers", "9"], "impossible number of decoder layers"),
        (["--keep", "4", "--layers", "1"], "impossible number of decoder layers"),
        (["--layers", "0"], "impossible number of decoder layers"),
        (["--keep", "0"], "impossible keep rule"),
        (["--max-images", "0"], "an impossible limit; where: --max-images"),
        (["--max-images", "99999"], "the limits exceed the model's longest sequence; where: --max-images"),
        (["--max-text-tokens", "5"], "no question fits into so few text tokens; where: --max-text-tokens"),
        (["--max-text-tokens", "60", "--max-new-tokens", "99999"], "where: --max-text-tokens, --max-new-tokens"),
        (["--keep", "1.5"], "a count of image tokens from 2 on (144)"),
        (["--prune-layer", "8"], "impossible prune layer"),
        (["--prune-layer", "-1"], "impossible prune layer"),
        (["--backend", "tensorrt"], "tensorrt"),
    ],
)
def test_impossible_requests_are_refused(build, tmp_path, more, words):
    code, printed, told = build(tmp_path / "b", *more)
    assert (code, printed) == (2, "")
    assert words in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_backend_whose_library_is_missing_is_named(build, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "allrounder.engines.onnxruntime.build", None)
    code, _, told = build(tmp_path / "b")
    assert code == 2
    assert "onnxruntime" in told
    assert "pip install" in told


def damaged_model(tiny, folder, change):
    vlm = shutil.copytree(tiny.vlm, folder / "model")
    change(vlm)
    return vlm


def test_a_text_only_checkpoint_is_refused(build, tiny, tmp_path):
    def text_only(vlm):
        config = json.loads((vlm / "config.json").read_text())
        (vlm / "config.json").write_text(json.dumps(config["text_config"]))

    code, _, told = build(tmp_path / "b", vlm=damaged_model(tiny, tmp_path, text_only))
    assert code == 2
    assert "ModelUnsupported" in told
    assert "model_type" in told
    assert not (tmp_path / "b").exists()


def test_truncated_weights_are_refused(build, tiny, tmp_path):
    def truncate(vlm):
        path = vlm / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])

    code, _, told = build(tmp_path / "b", vlm=damaged_model(tiny, tmp_path, truncate))
    assert code == 2
    assert "ModelUnreadable" in told
    assert "model.safetensors" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_router_of_another_model_is_refused(build, tiny, tmp_path):
    from allrounder.commands.pipeline.random_model import write_random_model
    from allrounder.vlm.random.model import Shape

    other = write_random_model(
        tmp_path / "other", Shape(text={"num_hidden_layers": 8}, vision={"image_size": 56}), seed=1
    )
    code, _, told = build(tmp_path / "b", router=other.router)
    assert code == 2
    assert "RouterMismatch" in told
    assert not (tmp_path / "b").exists()


def test_a_bundle_of_another_model_is_left_alone(build, bundle_copy, tmp_path):
    from allrounder.commands.pipeline.random_model import write_random_model
    from allrounder.vlm.random.model import Shape

    other = write_random_model(
        tmp_path / "other", Shape(text={"num_hidden_layers": 8}, vision={"image_size": 56}), seed=1
    )
    before = manifest_of(bundle_copy)
    code, _, told = build(bundle_copy, vlm=other.vlm, router=other.router)
    assert code == 2
    assert "BundleMismatch" in told
    assert manifest_of(bundle_copy) == before


def test_a_place_that_is_taken_is_left_alone(build, tmp_path):
    place = tmp_path / "b"
    place.mkdir()
    (place / "precious.txt").write_text("mine")
    code, _, told = build(place)
    assert code == 2
    assert "not a bundle" in told
    assert [path.name for path in place.iterdir()] == ["precious.txt"]
    assert left_beside(place) == []


def test_bad_prompts_are_named_by_line(build, tiny, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"image": "absent.png", "question": "what?"}\n{"question": 3}\n')
    code, _, told = build(tmp_path / "b", prompts=prompts)
    assert code == 2
    assert "line 1" in told
    assert "line 2" in told
