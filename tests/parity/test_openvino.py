"""OpenVINO's engines answer as ONNX Runtime's do: same tokens, same keep indices, same kept layers."""

import sys

import numpy as np
import pytest
from prunings import pruning

from allrounder import build_engine
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.openvino.session import open_session
from allrounder.engines.options import EngineOptions
from allrounder.engines.table import BACKENDS
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.runtime import Runtime
from allrounder.runtime.engine import Engine
from allrounder.versions import resolve

DECISIONS = [("full", "static"), ("par-lite", "dynamic"), ("par-lite", "static")]


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """A published bundle that holds three decisions for both backends."""
    folder = tmp_path_factory.mktemp("openvino")
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    lite, full = (resolve(name, tokens=16, layers=8) for name in ("par-lite", "full"))
    freezer.add(pruning(full, 0, tuple(range(8)), "full"))
    freezer.add(pruning(lite, 2, None, "par-lite"))
    freezer.add(pruning(lite, 2, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        for name in ("onnxruntime", "openvino"):
            backend(name).build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle")


def entry_of(bundle, name, version, policy):
    (found,) = (
        e for e in bundle.manifest.entries if (e.backend, e.version, e.pruning.layer_policy) == (name, version, policy)
    )
    return found


@pytest.mark.parametrize(("version", "policy"), DECISIONS)
def test_answers_are_those_of_onnx_runtime(both, version, policy):
    rng = np.random.default_rng(0)
    engines = [Engine.open(both, entry_of(both, name, version, policy)) for name in ("onnxruntime", "openvino")]
    for question in ("what is it?", "where is the red one, and how many are there?"):
        rgb = rng.integers(0, 256, (40, 52, 3), np.uint8)
        first, second = (Runtime(engine).generate(rgb, question, max_new_tokens=12) for engine in engines)
        assert (second.token_ids, second.keep_indices, second.kept_layers) == (
            first.token_ids,
            first.keep_indices,
            first.kept_layers,
        )


@pytest.mark.parametrize(("version", "policy"), DECISIONS)
def test_logits_of_several_new_tokens_are_those_of_onnx_runtime(both, version, policy):
    """Of the same pixel values: a few pixels are rounded otherwise."""
    pixels = np.random.default_rng(1).standard_normal((1, 3, 56, 56), np.float32)
    logits = []
    for name in ("onnxruntime", "openvino"):
        engine = Engine.open(both, entry_of(both, name, version, policy))
        prompt, image_embeds = engine.prompt("what is it?"), engine.embed_pixels(pixels)
        state = engine.prefill(prompt, image_embeds, engine.route(prompt, image_embeds), free_slots=6)
        logits.append(np.concatenate([engine.decode(state, ids)[0] for ids in ([3], [5, 7, 9], [11, 4])]))
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4 * logits[0].std()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """par-lite of the shipped model for both backends, in one bundle, by the command."""
    out = tmp_path_factory.mktemp("demo") / "bundle"
    for name in ("onnxruntime", "openvino"):
        command = ["--version", "par-lite", "--layer-policy", "dynamic", "--backend", name, "--out", str(out)]
        assert build_engine.main(command) == 0
    return open_bundle(out)


@pytest.mark.parametrize("size", [(47, 90), (480, 640), (20, 31), (56, 56), (640, 97), (303, 29)], ids=str)
def test_pixels_are_within_one_step_of_onnx_runtime(both, size):
    """OpenVINO's own `Resize` was up to 146 of 255 off on such an image: it does not antialias."""
    rgb = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    ours, theirs = (
        Engine.open(both, entry_of(both, name, "full", "static")).preprocess(rgb).numpy()
        for name in ("onnxruntime", "openvino")
    )
    step = np.diff(np.unique(ours[0, 0].round(5))).min()  # one of 255, normalised
    apart = np.abs(ours - theirs) / step
    assert apart.max() < 1.5
    assert (apart > 0.5).mean() < 0.002


@pytest.mark.slow
def test_the_demo_model_answers_alike(demo):
    runtimes = [
        Runtime(Engine.open(demo, entry_of(demo, name, "par-lite", "dynamic"))) for name in ("onnxruntime", "openvino")
    ]
    for example in examples(Split.TEST, 10):
        first, second = (runtime.generate(example.image, example.question) for runtime in runtimes)
        assert second.token_ids == first.token_ids


@pytest.mark.slow
def test_built_engines_have_figures_of_their_own(demo):
    entry = entry_of(demo, "openvino", "par-lite", "dynamic")
    assert entry.fidelity is not None
    assert entry.latency.machine.backend.startswith("openvino ")


def test_a_runtime_without_openvino_leaves_its_entries_aside(both, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, BACKENDS["openvino"].session)
    with caplog.at_level("INFO", logger="allrounder.runtime"), Runtime.load(both.path, version="par-lite") as runtime:
        assert runtime.entry.backend == "onnxruntime"
    assert "left aside" in caplog.text


def test_what_it_cannot_do_is_refused(both, tmp_path):
    with pytest.raises(EngineUnavailable, match="cuda"):
        open_session(tmp_path / "any.onnx", EngineOptions(device="cuda"))
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"broken\.onnx"):
        open_session(tmp_path / "broken.onnx", EngineOptions())
