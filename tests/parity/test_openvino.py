"""OpenVINO's engines answer as ONNX Runtime's do: same tokens, same keep indices, same kept layers."""

import sys
from fractions import Fraction

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
from allrounder.versions import EVERYTHING

SHARE = Fraction(1, 4)
DECISIONS = [("full", "static", 0), *(("par-lite", policy, k) for policy in ("dynamic", "static") for k in (0, 2))]
TEXT = {"type": "text", "text": "what is it?"}
IMAGE = {"type": "image", "image": None}
CONTENTS = {0: [TEXT], 1: [IMAGE, TEXT], 2: [TEXT, IMAGE, {"type": "text", "text": "and the red one?"}, IMAGE, TEXT]}


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """A published bundle that holds all decisions for both backends."""
    folder = tmp_path_factory.mktemp("openvino")
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    freezer.add(pruning((EVERYTHING, 8), 0, tuple(range(8)), "full"))
    for prune_layer in (0, 2):
        freezer.add(pruning((SHARE, 6), prune_layer, None, "par-lite"))
        freezer.add(pruning((SHARE, 6), prune_layer, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        for name in ("onnxruntime", "openvino"):
            backend(name).build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle")


def entry_of(bundle, name, *decision):
    (found,) = (
        e for e in bundle.manifest.entries if e.backend == name and (e.version, *e.pruning.key[:0:-1]) == decision
    )
    return found


def engines_of(bundle, decision):
    return [Engine.open(bundle, entry_of(bundle, name, *decision)) for name in ("onnxruntime", "openvino")]


def prepared(engine, images):
    """Random images of one tile's size."""
    generator = np.random.default_rng(images)
    return engine.prepare([generator.integers(0, 256, (56, 56, 3), np.uint8) for _ in range(images)])


def answered(engine, images, keep=None, steps=8):
    """The decision, greedy tokens, and the logits [rows, V] of a prompt, three given tokens and an answer."""
    layout = engine.layout([{"role": "user", "content": CONTENTS[images]}])
    state = engine.start(prepared(engine, images), layout, keep=keep, free_slots=3 + steps)
    logits = [state.logits, engine.decode(state, [3, 5, 7])[0]]
    tokens = []
    for _ in range(steps):
        tokens.append(int(logits[-1][-1].argmax()))
        logits.append(engine.decode(state, tokens[-1:])[0])
    return (state.keep_indices, state.kept_layers, tokens), np.concatenate(logits)


def check_alike(engines, images, keep=None):
    (first, wanted), (second, got) = (answered(engine, images, keep) for engine in engines)
    assert second == first
    assert np.abs(got - wanted).max() <= 1e-4 * wanted.std()
    return first[0]


@pytest.mark.parametrize("decision", DECISIONS, ids=str)
def test_prompts_and_answers_are_those_of_onnx_runtime(both, decision):
    """Prompts of no image, one and two, one engine for all: it goes from long prompts to single tokens and back."""
    engines = engines_of(both, decision)
    kept = [len(check_alike(engines, images)) for images in (2, 0, 1)]
    assert kept == ([32, 0, 16] if decision[0] == "full" else [8, 0, 4])


@pytest.mark.parametrize("decision", DECISIONS[1:], ids=str)
def test_how_many_image_tokens_stay_is_asked_per_request(both, decision):
    engines = engines_of(both, decision)
    for keep, kept in ((Fraction(1, 16), 2), (5, 10), (Fraction(1, 2), 16), (EVERYTHING, 32)):
        assert len(check_alike(engines, 2, keep)) == kept


@pytest.mark.parametrize("decision", [each for each in DECISIONS if each[1] == "static"], ids=str)
def test_sequences_of_unequal_length_decode_together_as_alone(both, decision):
    """Three in one pool, of no image, one and two."""
    engine = engines_of(both, decision)[1]
    pool = engine.pool(3)
    states = []
    for images in (0, 2, 1):
        layout = engine.layout([{"role": "user", "content": CONTENTS[images]}])
        image_embeds = engine.embed(prepared(engine, images))
        scores = engine.route(layout, image_embeds)
        states.append(engine.prefill(layout, image_embeds, scores, free_slots=3))
        engine.prefill(layout, image_embeds, scores, free_slots=3, pool=pool)
    for ids in ([[3], [4], [5]], [[6, 7], [8, 9], [10, 11]]):
        together = pool.advance(ids)
        for slot, state in enumerate(states):
            np.testing.assert_allclose(together[slot], engine.decode(state, ids[slot])[0], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """par-lite of the shipped model for both backends, in one bundle, by the command."""
    out = tmp_path_factory.mktemp("demo") / "bundle"
    for name in ("onnxruntime", "openvino"):
        command = ["--version", "par-lite", "--layer-policy", "dynamic", "--backend", name, "--out", str(out)]
        assert build_engine.main(command) == 0
    return open_bundle(out)


@pytest.mark.slow
def test_the_demo_model_answers_alike(demo):
    runtimes = [
        Runtime(Engine.open(demo, entry_of(demo, name, "par-lite", "dynamic", 2)))
        for name in ("onnxruntime", "openvino")
    ]
    for example in examples(Split.TEST, 10):
        first, second = (runtime.generate(example.image, example.question) for runtime in runtimes)
        assert second.token_ids == first.token_ids


@pytest.mark.slow
def test_built_engines_have_figures_of_their_own(demo):
    entry = entry_of(demo, "openvino", "par-lite", "dynamic", 2)
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
