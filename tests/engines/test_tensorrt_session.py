"""The TensorRT runtime backend against stand-ins of TensorRT and CUDA that compute in ONNX Runtime on the CPU.

What they show: that every plan is fed what it was built for, that caches are grown in place, that captured work is what
is launched, and that nothing is leaked. What they cannot show: that TensorRT computes the same.
"""

import gc
import importlib
import sys
from fractions import Fraction

import cuda_stub
import numpy as np
import pytest
import tensorrt_stub
from prunings import pruning

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.onnxruntime.build import build as build_onnxruntime
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import why_not
from allrounder.engines.table import BACKENDS
from allrounder.engines.tensorrt import build as built_by
from allrounder.engines.tensorrt import gpus
from allrounder.engines.tensorrt import library as tensorrt_library
from allrounder.engines.tensorrt.gpus import Gpu
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.runtime import Runtime
from allrounder.runtime.engine import Engine
from allrounder.versions import EVERYTHING, keep_of

DECISIONS = (("full", 0), ("par-lite", 2), ("par-lite", 0))
PARTS = ("allrounder.engines.tensorrt.plan_session", "allrounder.engines.tensorrt.cuda")
LOADED = (BACKENDS["tensorrt"].session, BACKENDS["tensorrt-rtx"].session, *PARTS)


@pytest.fixture(scope="module")
def machine():
    """A machine with TensorRT 10.16 and one GPU; what is loaded on it is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        bindings = cuda_stub.make(tensorrt_stub.Streams)
        patch.setitem(sys.modules, "tensorrt", tensorrt_stub.make("10.16.1.11"))
        patch.setitem(sys.modules, "cuda.bindings.runtime", bindings)
        patch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA H100 80GB", 90, "CUDA 13.0"),))
        patch.setattr(tensorrt_library, "tensorrt_plugin", lambda: None)
        patch.setitem(sys.modules, "tensorrt_rtx", tensorrt_stub.make("1.7.1.116"))
        for name in LOADED:
            patch.delitem(sys.modules, name, raising=False)
        importlib.import_module(BACKENDS["tensorrt"].session)
        yield bindings
        for name in LOADED:
            sys.modules.pop(name, None)


def freeze(tiny, folder, decisions, precision="fp32"):
    """Freezes decisions, each a version and its prune layer, with fixed layers."""
    freezer = Freezer(tiny.vlm, tiny.router, folder, FreezeOptions(precision), lambda *_: None)
    freezer.shared()
    for name, prune_layer in decisions:
        plan = tuple(range(8)) if name == "full" else (0, 1, 2, 4, 5, 7)
        freezer.add(pruning((keep_of(name), len(plan)), prune_layer, plan, name))
    freezer.finish()


@pytest.fixture(scope="module")
def both(machine, tiny, tmp_path_factory):
    """A published bundle that holds three decisions for ONNX Runtime and TensorRT."""
    folder = tmp_path_factory.mktemp("tensorrt-runtime")
    freeze(tiny, folder / "frozen", DECISIONS)
    with Staging(folder / "bundle") as staging:
        build_onnxruntime(folder / "frozen", staging, BuildOptions())
        built_by.build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle")


@pytest.fixture(scope="module")
def short(machine, tiny, tmp_path_factory):
    """The first two of these decisions in bfloat16, for TensorRT alone."""
    folder = tmp_path_factory.mktemp("tensorrt-bf16")
    freeze(tiny, folder / "frozen", DECISIONS[:2], "bf16")
    with Staging(folder / "bundle") as staging:
        built_by.build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle")


def entry_of(bundle, name, decision):
    (found,) = (
        e for e in bundle.manifest.entries if (e.backend, e.version, e.pruning.prune_layer) == (name, *decision)
    )
    return found


def plan_of(bundle, kind="decoder"):
    return bundle.path / getattr(entry_of(bundle, "tensorrt", DECISIONS[1]).graphs, kind)


@pytest.mark.parametrize("decision", DECISIONS, ids=str)
def test_answers_are_those_of_onnx_runtime(both, decision):
    rng = np.random.default_rng(0)
    engines = [Engine.open(both, entry_of(both, name, decision)) for name in ("onnxruntime", "tensorrt")]
    for asked in ("what is it?", "where is the red one, and how many are there?"):
        rgb = rng.integers(0, 256, (40, 52, 3), np.uint8)
        first, second = (Runtime(engine).generate(rgb, asked, max_new_tokens=12) for engine in engines)
        assert (second.token_ids, second.keep_indices) == (first.token_ids, first.keep_indices)


def prepared(engine, images):
    rng = np.random.default_rng(images)
    return engine.prepare([rng.integers(0, 256, (40, 52, 3), np.uint8) for _ in range(images)])


def started(engine, images=1, **options):
    return engine.start(prepared(engine, images), engine.layout(question("what is it?", images)), **options)


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("decision", DECISIONS, ids=str)
def test_logits_of_any_number_of_images_and_new_tokens_are_those_of_onnx_runtime(both, decision, images):
    engines = [Engine.open(both, entry_of(both, name, decision)) for name in ("onnxruntime", "tensorrt")]
    for keep in (None,) if decision[0] == "full" else (None, Fraction(1, 16), 3):
        logits = []
        for engine in engines:
            state = started(engine, images, keep=keep, free_slots=9)
            steps = ([3], [5], [6], [5, 7, 9], [11, 4], [2])
            logits.append(np.concatenate([state.logits, *(engine.decode(state, ids)[0] for ids in steps)]))
        assert np.abs(logits[0] - logits[1]).max() <= 1e-5 * logits[0].std()


def test_more_image_tokens_than_the_caches_hold_are_refused(both):
    """Caches from K on have room for what the version keeps of as many images as a request may have."""
    engine = Engine.open(both, entry_of(both, "tensorrt", DECISIONS[1]))
    most, limits = both.manifest.model.images.tokens, both.manifest.limits
    assert len(started(engine, keep=EVERYTHING, free_slots=9).keep_indices) == most  # as many as of four images
    with pytest.raises(BackendError, match=r"not built for this size.*tokens_to_keep"):
        started(engine, limits.images, keep=EVERYTHING, free_slots=9)
    with pytest.raises(BackendError, match="longer than the caches"):
        engine._sessions.decoder.slots("cache_key.4", 1, 10_000)
    with pytest.raises(EngineUnavailable, match="one sequence"):
        engine._sessions.decoder.slots("cache_key.4", 2, 8)


@pytest.mark.parametrize("decision", DECISIONS[:2], ids=str)
def test_bfloat16_stays_on_the_device_unseen(both, short, decision):
    """The bindings have no numpy type for it; caches are grown in place, and what is read is float32."""
    logits, scores = [], None
    for bundle in (both, short):
        engine = Engine.open(bundle, entry_of(bundle, "tensorrt", decision))
        layout, image_embeds = engine.layout(question("what is it?")), engine.embed(prepared(engine, 1))
        scores = scores or engine.route(layout, image_embeds)
        state = engine.prefill(layout, image_embeds, scores, free_slots=9)
        assert state.logits.dtype == np.float32
        steps = ([3], [5], [6], [5, 7, 9], [2])
        logits.append(np.concatenate([state.logits, *(engine.decode(state, ids)[0] for ids in steps)]))
    assert image_embeds.dtype.itemsize == 2
    assert 1e-4 * logits[0].std() < np.abs(logits[0] - logits[1]).max() < 0.4 * logits[0].std()
    with pytest.raises(BackendError, match=r"not the type.*got: float32.*bfloat16"):
        engine.prefill(layout, np.zeros(image_embeds.shape(), np.float32), scores, free_slots=9)


def test_new_tokens_are_done_once_then_captured_then_launched(both, machine):
    engine = Engine.open(both, entry_of(both, "tensorrt", DECISIONS[1]))
    state = started(engine, free_slots=9)
    machine.launches.clear()
    contexts = len(tensorrt_stub.Context.made)
    for count in range(5):
        engine.decode(state, [count])
    (context,) = tensorrt_stub.Context.made[contexts:]  # one context per request
    assert context.enqueued == 1
    assert len(machine.launches) == 4
    assert len(set(machine.launches)) == 1  # captured once
    assert context._profile == 0  # the one for a single token


def test_what_cannot_be_captured_is_said_and_done_without(both, machine, monkeypatch, caplog):
    engine = Engine.open(both, entry_of(both, "tensorrt", DECISIONS[1]))
    answers = []
    for refuses in (False, True):
        monkeypatch.setattr(machine, "refuses_capture", refuses)
        state = started(engine, free_slots=9)
        answers.append([engine.decode(state, [each]) for each in (3, 4, 5)])
    np.testing.assert_array_equal(*answers)
    assert [record.levelname for record in caplog.records if "one by one" in record.message] == ["WARNING"]


def test_nothing_on_the_gpu_is_left_behind(both, machine):
    gc.collect()
    before = len(machine.blocks)
    engine = Engine.open(both, entry_of(both, "tensorrt", DECISIONS[1]))
    Runtime(engine).generate(np.zeros((9, 9, 3), np.uint8), "what is it?", max_new_tokens=4)
    assert len(machine.blocks) > before
    del engine
    gc.collect()
    assert len(machine.blocks) == before


def test_the_fingerprint_names_gpu_and_version(both):
    found = Engine.open(both, entry_of(both, "tensorrt", DECISIONS[0])).machine
    assert (found.backend, found.gpu, found.driver) == ("tensorrt 10.16.1.11", "NVIDIA H100 80GB", "CUDA 13.0")


def open_plan(path, **options):
    return importlib.import_module(BACKENDS["tensorrt"].session).open_session(path, EngineOptions(**options))


def copied(path, folder, **names):
    """A copy of a plan under another name."""
    name = path.name
    for old, new in names.values():
        assert old in name
        name = name.replace(old, new)
    (folder / name).write_bytes(path.read_bytes())
    return folder / name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("trt10.16.1.11", "trt11.1.0.106"), r"another TensorRT.*10\.16\.1\.11 here.*11\.1.*--force"),
        (("trt10.16.1.11", "trt10.15.1.29"), r"another TensorRT.*tensorrt==10\.15"),
        (("sm90", "sm80"), "another GPU architecture.*SM 90 here.*SM 80"),
        (("-trt10.16.1.11-sm90", ""), "nothing says"),
        (("sm90", "sm90-plugin"), r"no liballrounder_tensorrt_plugin\.so.*ALLROUNDER_TENSORRT"),
    ],
)
def test_a_foreign_plan_is_refused_before_tensorrt_sees_it(both, tmp_path, change, words):
    with pytest.raises(EngineUnavailable, match=words):
        open_plan(copied(plan_of(both), tmp_path, change=change))


def test_a_damaged_plan_is_refused_in_tensorrts_words(both, tmp_path):
    broken = copied(plan_of(both), tmp_path)
    broken.write_bytes(b"not a plan")
    with pytest.raises(BackendError, match=r"refuses a plan.*stdArchiveMagic.*tensorrt 10\.16"):
        open_plan(broken)


def test_a_gpu_that_is_not_there(both):
    with pytest.raises(EngineUnavailable, match="cuda:3"):
        open_plan(plan_of(both), device="cuda:3")


def test_sizes_and_types_that_a_plan_was_not_built_for(both):
    session = open_plan(plan_of(both, "router"))
    model, limits = both.manifest.model, both.manifest.limits
    rows, tokens = limits.text_tokens + limits.image_tokens + 1, np.arange(model.images.tokens)
    feeds = {
        "input_ids": np.zeros((1, rows), np.int64),
        "image_embeds": np.zeros((len(tokens), model.hidden), np.float32),
        "image_index": tokens,
        "image_of": np.zeros_like(tokens),
        "position_ids": np.zeros((1, 1, rows), np.int64),
    }
    assert set(session.inputs) == set(feeds)
    with pytest.raises(BackendError, match=r"not built for this size.*input_ids"):
        session.run(feeds)
    with pytest.raises(BackendError, match=r"not the type.*float16"):
        session.run(feeds | {"image_embeds": feeds["image_embeds"].astype(np.float16)})


@pytest.mark.parametrize(
    ("missing", "words"),
    [("tensorrt", "TensorRT cannot be imported.*pip install"), ("cuda.bindings.runtime", "pip install cuda-python")],
)
def test_a_runtime_without_the_packages_leaves_its_entries_aside(both, monkeypatch, caplog, missing, words):
    for name in (BACKENDS["tensorrt"].session, *PARTS):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # as where it is not installed
    with pytest.raises(EngineUnavailable, match=words):
        raise why_not(entry_of(both, "tensorrt", DECISIONS[0]), EngineOptions())
    with caplog.at_level("INFO", logger="allrounder.runtime"), Runtime.load(both.path, version="full") as runtime:
        assert runtime.entry.backend == "onnxruntime"
    assert "left aside" in caplog.text


def test_a_machine_without_a_gpu_leaves_its_entries_aside(both, monkeypatch):
    monkeypatch.delitem(sys.modules, BACKENDS["tensorrt"].session)
    monkeypatch.setattr(gpus, "gpus", tuple)
    with pytest.raises(EngineUnavailable, match="no such GPU"):
        raise why_not(entry_of(both, "tensorrt", DECISIONS[0]), EngineOptions())


def test_the_other_library_of_that_kind_runs_its_own_plans(both, tiny, tmp_path, monkeypatch):
    """TensorRT-RTX, by the same code: another package, plans for several architectures at once, and no GPU to build."""
    freeze(tiny, tmp_path / "frozen", DECISIONS[1:2])
    monkeypatch.setattr(tensorrt_stub.Builder, "built", [])
    with monkeypatch.context() as nowhere, Staging(tmp_path / "bundle") as staging:
        nowhere.setattr(gpus, "gpus", tuple)
        backend("tensorrt-rtx").build(tmp_path / "frozen", staging, BuildOptions())
        publish(staging)
    targets = [{each.name for each in config.targets.values()} for _, config in tensorrt_stub.Builder.built]
    assert len(targets) == 3
    assert all(each == {"SM80", "SM86", "SM89", "SM120", "SM121"} for each in targets)
    bundle = open_bundle(tmp_path / "bundle")
    (entry,) = bundle.manifest.entries
    assert "does not run on this GPU" in str(why_not(entry, EngineOptions()))  # SM 90
    monkeypatch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA GeForce RTX 4090", 89, "CUDA 13.0"),))
    assert why_not(entry, EngineOptions()) is None
    rgb = np.random.default_rng(3).integers(0, 256, (40, 52, 3), np.uint8)
    engines = Engine.open(bundle, entry), Engine.open(both, entry_of(both, "onnxruntime", DECISIONS[1]))
    first, second = (Runtime(engine).generate(rgb, "what is it?", max_new_tokens=9) for engine in engines)
    assert (first.token_ids, first.keep_indices) == (second.token_ids, second.keep_indices)
    module = importlib.import_module(BACKENDS["tensorrt-rtx"].session)
    assert module.fingerprint(EngineOptions()).backend == "tensorrt-rtx 1.7.1.116"
    with pytest.raises(EngineUnavailable, match="nothing says what this plan was built with"):
        module.open_session(plan_of(both), EngineOptions())
    newer = bundle.path / entry.graphs.decoder.replace("rtx1.7", "rtx1.6")
    with pytest.raises(EngineUnavailable, match=r"another TensorRT-RTX.*pip install 'tensorrt_rtx==1.6"):
        module.open_session(newer, EngineOptions())
