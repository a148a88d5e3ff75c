"""``build --precision bf16``: what runs it, what only carries it, and who refuses it."""

import json

import numpy as np
import pytest

from allrounder import build_engine
from allrounder.chat.messages import question
from allrounder.commands.cli import main
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import BFLOAT16
from allrounder.errors import EngineUnavailable
from allrounder.runtime import LatencyTarget, Runtime
from allrounder.runtime.engine import Engine

RGB = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)


@pytest.fixture
def build(tiny, capsys):
    """Runs the command in bf16 and returns its exit code, the last line of stdout as JSON, and stderr."""

    def run(out, *more):
        code = build_engine.main(tiny.arguments(out, "--precision", "bf16", *more))
        printed, told = capsys.readouterr()
        return code, json.loads(printed.splitlines()[-1]) if code == 0 else printed, told

    return run


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["dynamic", "static"])
def test_openvino_runs_it(build, tmp_path, policy):
    out = tmp_path / "b"
    code, _, _ = build(out, "--version", "full,par-lite", "--backend", "openvino", "--layer-policy", policy)
    assert code == 0
    bundle = open_bundle(out)
    full, lite = bundle.manifest.entries
    assert (full.precision, lite.precision) == ("bf16", "bf16")
    assert lite.fidelity.kl.mean > full.fidelity.kl.mean == 0
    assert (full.latency, lite.latency) == (None, None)  # on a CPU it says nothing of bf16
    engine = Engine.open(bundle, lite)
    layout, image_embeds = engine.layout(question("what is it?")), engine.embed_image(RGB)
    state = engine.prefill(layout, image_embeds, engine.route(layout, image_embeds), free_slots=6)
    assert state.logits.dtype == engine.decode(state, [3]).dtype == np.float32
    assert image_embeds.numpy().dtype == BFLOAT16  # opaque: numpy would read it as something else
    with Runtime.load(out, version="par-lite") as runtime:
        answer = runtime.generate(RGB, "what is it?", max_new_tokens=8)
        assert answer.token_ids == runtime.generate(RGB, "what is it?", max_new_tokens=8).token_ids


def test_onnx_runtime_carries_it_to_a_gpu_and_says_that_nothing_was_run(build, tmp_path):
    out = tmp_path / "b"
    code, _, told = build(out, "--version", "full,par-lite")
    assert code == 0
    assert "verified, but not run" in told
    assert "onnxruntime does not compute in bf16 on a CPU" in told
    entries = open_bundle(out).manifest.entries
    assert [(entry.fidelity, entry.latency) for entry in entries] == [(None, None)] * 2
    words = r"does not compute in bf16 on a CPU.*device='cpu'.*device='cuda'.*--backend openvino"
    with pytest.raises(EngineUnavailable, match=words):
        Runtime.load(out)
    with pytest.raises(EngineUnavailable, match=words):
        Engine.open(open_bundle(out), entries[1], EngineOptions())
    code, _, told = build(out, "--version", "full,par-lite")
    assert "left as it is" in told


def test_layers_are_voted_for_in_fp32_where_it_does_not_run(build, tiny, tmp_path):
    more = ("--version", "par-lite", "--layer-policy", "static")
    code, _, told = build(tmp_path / "b", *more)
    assert code == 0
    assert "layers are ranked in fp32" in told
    assert build_engine.main(tiny.arguments(tmp_path / "c", *more)) == 0
    short, whole = (open_bundle(tmp_path / name).manifest.entries[0] for name in "bc")
    assert short.pruning == whole.pruning
    assert not any("fp32" in path for path in open_bundle(tmp_path / "b").manifest.files)


def test_entries_that_run_are_chosen_beside_it(build, tiny, tmp_path, caplog):
    out = tmp_path / "b"
    assert build(out, "--version", "full")[0] == 0
    assert build_engine.main(tiny.arguments(out, "--version", "par-lite")) == 0
    for target in (None, LatencyTarget(ttft_ms=1e6)):
        caplog.clear()
        with caplog.at_level("INFO", logger="allrounder.runtime"), Runtime.load(out, target=target) as runtime:
            assert (runtime.entry.version, runtime.entry.precision) == ("par-lite", "fp32")
        assert "full (onnxruntime, bf16, static, K=0): left aside" in caplog.text
    with pytest.raises(EngineUnavailable, match="does not compute in bf16"):
        Runtime.load(out, version="full")


@pytest.mark.slow
def test_what_runs_is_calibrated_and_benched_beside_it(build, tiny, tmp_path, capsys):
    out = tmp_path / "b"
    assert build(out, "--version", "full")[0] == 0
    assert build_engine.main(tiny.arguments(out, "--version", "full")) == 0
    (before,) = (entry for entry in open_bundle(out).manifest.entries if entry.precision == "bf16")
    capsys.readouterr()
    assert main(["calibrate", str(out), "--calib", str(tiny.prompts)]) == 0
    assert "full (onnxruntime, bf16, static, K=0) is left aside" in capsys.readouterr().err
    entries = open_bundle(out).manifest.entries
    assert [entry.precision for entry in entries if entry.fidelity] == ["fp32"]
    assert before in entries
    assert main(["bench", str(out), "--repeats", "1", "--no-memory"]) == 0
    printed, told = capsys.readouterr()
    assert [row["entry"] for row in json.loads(printed.splitlines()[-1])["rows"]] == [
        "full (onnxruntime, fp32, static, K=0)"
    ]
    assert "is left aside" in told


def test_where_nothing_runs_it_is_not_calibrated(build, tiny, tmp_path, capsys):
    assert build(tmp_path / "b", "--version", "full")[0] == 0
    for words in (("calibrate", "--calib", str(tiny.prompts)), ("bench",)):
        assert main([words[0], str(tmp_path / "b"), *words[1:]]) != 0
        assert "does not compute in bf16 on a CPU" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["checkpoint", "tensorrt-llm"])
def test_directories_of_other_stacks_have_no_rows_in_bfloat16(build, tmp_path, backend):
    decision = ("--prune-layer", "0", "--layer-policy", "static", "--version", "par-lite")
    code, _, told = build(tmp_path / "c", "--backend", backend, *decision)
    assert code == 2
    assert "numpy has no bfloat16" in told
    assert f"allrounder build --backend {backend} --version par-lite --prune-layer 0" in told
    assert "--precision fp32" in told
    assert not (tmp_path / "c").exists()
