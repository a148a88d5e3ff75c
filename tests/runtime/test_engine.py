"""The engine's functions on real, tiny ONNX graphs: what they compute must not depend on how it is asked."""

import itertools

import fake_bundle
import msgspec
import numpy as np
import pytest

from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import BackendError, BundleCorrupt, EngineUnavailable, InputInvalid, PromptTooLong
from allrounder.runtime.engine import Engine, EngineOptions, open_engines
from allrounder.runtime.prompt import PromptIds

RGB = np.random.default_rng(3).integers(0, 256, (9, 6, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(fake_bundle.write_bundle(tmp_path_factory.mktemp("engine") / "bundle"))


@pytest.fixture(scope="module")
def engines(bundle):
    return {e.entry.version: e for e in open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))}


def start(engine, question="what is it?", free_slots=8):
    prompt, image_embeds = engine.prompt(question), engine.embed_image(RGB)
    scores = engine.route(prompt, image_embeds)
    return prompt, image_embeds, scores, engine.prefill(prompt, image_embeds, scores, free_slots=free_slots)


@pytest.mark.parametrize("version", fake_bundle.KEPT_LAYERS)
def test_decoding_equals_a_longer_prompt(engines, version):
    engine = engines[version]
    prompt, image_embeds, scores, state = start(engine)
    tokens = [70, 71, 72, 73]
    rows = [engine.decode(state, [token])[0, 0] for token in tokens]
    for count, row in enumerate(rows, start=1):
        longer = PromptIds(prompt.prefix_ids, (*prompt.suffix_ids, *tokens[:count]))
        np.testing.assert_allclose(
            row, engine.prefill(longer, image_embeds, scores, free_slots=0).logits[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("version", fake_bundle.KEPT_LAYERS)
@pytest.mark.parametrize("parts", [[5], [2, 3], [1, 1, 3], [3, 1, 1], [1, 2, 1, 1]])
def test_tokens_may_come_alone_or_together(engines, version, parts):
    engine = engines[version]
    tokens = iter(range(60, 65))
    alone = start(engine)[3]
    wanted = np.concatenate([engine.decode(alone, [token]) for token in range(60, 65)], axis=1)
    state = start(engine)[3]
    got = [engine.decode(state, [next(tokens) for _ in range(count)]) for count in parts]
    np.testing.assert_allclose(np.concatenate(got, axis=1), wanted, rtol=1e-5, atol=1e-5)


def test_two_clocks(engines):
    for version, tokens in (("full", fake_bundle.IMAGE_EMBEDS), ("t2-l2", 2)):
        prompt, _, _, state = start(engines[version], free_slots=3)
        text = len(prompt.prefix_ids) + len(prompt.suffix_ids)
        assert state.cache.clocks == (text + fake_bundle.IMAGE_EMBEDS, text + tokens, 3)
        engines[version].decode(state, [60, 61])
        assert state.cache.clocks == (text + fake_bundle.IMAGE_EMBEDS + 2, text + tokens + 2, 1)


def test_the_decision_is_reported(engines):
    state = start(engines["full"])[3]
    assert state.keep_indices == tuple(range(fake_bundle.IMAGE_EMBEDS))
    assert state.kept_layers == (0, 1, 2)
    _, _, scores, state = start(engines["t2-l2"])
    assert state.keep_indices == tuple(sorted(np.argsort(-scores.token_scores[0], kind="stable")[:2].tolist()))
    assert state.kept_layers == (0, 2)
    assert scores.token_scores.shape == (1, fake_bundle.IMAGE_EMBEDS)
    assert scores.layer_scores.shape == (1, fake_bundle.LAYERS)


def test_the_cache_grows_in_place_and_its_size_is_that_of_its_rows(engines):
    prompt, _, _, state = start(engines["t2-l2"], free_slots=5)
    text = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    rows = (text + fake_bundle.IMAGE_EMBEDS + 5) + (text + 2 + 5)  # layer 0 sees all, layer 2 the kept ones
    assert state.cache.numbers == rows * 2 * fake_bundle.HIDDEN
    before = state.cache._outputs["cache_key_out.2"].data_ptr()
    engines["t2-l2"].decode(state, [60])
    assert state.cache._outputs["cache_key_out.2"].data_ptr() == before
    held = state.cache._outputs["cache_key_out.2"].numpy()[0, 0]
    assert np.abs(held[text + 2]).max() > 0
    assert np.abs(held[text + 3 :]).max() == 0


def test_results_stay_when_other_requests_run(engines):
    engine = engines["t2-l2"]
    state = start(engine)[3]
    logits = engine.decode(state, [60])
    kept, first = logits.copy(), state.logits.copy()
    other = start(engine, "something else entirely")[3]
    for token in (61, 62):
        engine.decode(state, [token])
        engine.decode(other, [token])
    np.testing.assert_array_equal(logits, kept)
    np.testing.assert_array_equal(state.logits, first)


def test_free_slots_are_kept(engines):
    engine = engines["full"]
    state = start(engine, free_slots=2)[3]
    with pytest.raises(InputInvalid, match="free slots"):
        engine.decode(state, [])
    with pytest.raises(InputInvalid, match="free slots"):
        engine.decode(state, [60, 61, 62])
    engine.decode(state, [60, 61])
    with pytest.raises(InputInvalid, match="free slots"):
        engine.decode(state, [62])
    for free_slots in (-1, fake_bundle.LIMITS.new_tokens + 1):
        with pytest.raises(InputInvalid, match="free slots"):
            start(engine, free_slots=free_slots)


def test_scores_are_demanded_where_they_are_needed(engines):
    engine = engines["t2-l2"]
    with pytest.raises(InputInvalid, match="scores"):
        engine.prefill(engine.prompt("what?"), engine.embed_image(RGB), None, free_slots=1)
    assert engines["full"].route(engine.prompt("what?"), engine.embed_image(RGB)) is None


def test_a_prompt_over_the_limit_is_refused_with_its_count(engines):
    longest = fake_bundle.LIMITS.text_tokens - len("USER: \n ASSISTANT:")
    engines["full"].prompt("x" * longest)
    with pytest.raises(PromptTooLong, match=f"got: {fake_bundle.LIMITS.text_tokens + 1} text tokens"):
        engines["full"].prompt("x" * (longest + 1))


def test_shared_weights_give_the_same(bundle, engines):
    for entry in bundle.manifest.entries:
        shared = Engine.open(bundle, entry, EngineOptions(threads=1, weights="shared"))
        wanted = start(engines[entry.version])[3].logits
        np.testing.assert_allclose(start(shared)[3].logits, wanted, rtol=1e-5, atol=1e-5)


def test_graphs_in_common_are_loaded_once(engines):
    full, pruned = (engines[version]._sessions for version in fake_bundle.KEPT_LAYERS)
    assert full.vision is pruned.vision
    assert full.decode is not pruned.decode


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": 1.5}, {"threads": True}, {"weights": "slow"}, {"device": "tpu"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputInvalid):
        EngineOptions(**options)


def test_a_device_that_is_not_there_is_named(bundle):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    with pytest.raises(EngineUnavailable, match="onnxruntime-gpu"):
        Engine.open(bundle, bundle.manifest.entries[0], EngineOptions(device="cuda"))


def test_a_graph_that_is_none_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    fake_bundle.write_graphs(folder)
    (folder / "graphs/full.decode.onnx").write_bytes(b"no graph")
    bundle = open_bundle(fake_bundle.write_manifest(folder, [fake_bundle.entry("full")]))
    with pytest.raises(BackendError, match=r"full\.decode\.onnx"):
        Engine.open(bundle, bundle.manifest.entries[0])


def test_a_tokenizer_that_gives_other_ids_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    fake_bundle.write_graphs(folder)
    (folder / "tokenizer/golden.jsonl").write_bytes(
        b'{"question": "what?", "text": "", "prefix_ids": [], "suffix_ids": [3]}\n'
    )
    bundle = open_bundle(fake_bundle.write_manifest(folder, [fake_bundle.entry("full")]))
    with pytest.raises(BundleCorrupt, match="other ids"):
        Engine.open(bundle, bundle.manifest.entries[0])


def test_a_failing_graph_is_a_backend_error(engines):
    with pytest.raises(BackendError, match=r"vision\.onnx"):
        engines["full"].embed_pixels(np.zeros((1, 3, 5, 5), np.float32))


KINDS = ("preprocess", "vision", "router", "prefill", "decode")


@pytest.mark.parametrize(("kind", "other"), [*itertools.product(KINDS, (*KINDS, "full.prefill", "full.decode"))])
def test_a_graph_in_the_place_of_another_is_the_backends_error(bundle, kind, other):
    entry = bundle.manifest.entries[1]
    graphs = msgspec.structs.asdict(entry.graphs)
    place = graphs.get(other, f"graphs/{other}.onnx")
    if place == graphs[kind]:
        place = f"graphs/full.{kind}.onnx" if kind in ("prefill", "decode") else graphs["decode"]
    wrong = msgspec.structs.replace(entry, graphs=msgspec.structs.replace(entry.graphs, **{kind: place}))
    engine = Engine.open(bundle, wrong, EngineOptions(threads=1))
    with pytest.raises(BackendError):
        engine.decode(start(engine)[3], [60])


def test_a_manifest_that_counts_otherwise_is_the_backends_error(bundle):
    for change in ({"vocabulary": 2**40}, {"image_tokens": 5}, {"layers": 7}):
        model = msgspec.structs.replace(bundle.manifest.model, **change)
        lying = bundle._replace(manifest=msgspec.structs.replace(bundle.manifest, model=model))
        engine = Engine.open(lying, bundle.manifest.entries[1], EngineOptions(threads=1))
        with pytest.raises(BackendError, match="does not give what it should"):
            start(engine)


@pytest.mark.parametrize(
    ("version", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22", "550.54.14"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("NVRM version: none", ""),
    ],
)
def test_a_gpu_is_told_by_its_name_and_the_drivers_version(tmp_path, version, driver):
    from allrounder.engines.onnxruntime.session import _gpu

    for gpu in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / gpu).mkdir(parents=True)
        (tmp_path / "gpus" / gpu / "information").write_text(f"IRQ: 3\nModel: \t\t NVIDIA {gpu}  \nBus: x\n")
    assert _gpu(0, tmp_path) == ("cuda:0", "")
    (tmp_path / "version").write_text(f"{version}\nGCC version:  gcc version 12.2.0\n")
    assert _gpu(1, tmp_path) == ("NVIDIA 0000:02:00.0", driver)
    assert _gpu(7, tmp_path) == ("cuda:7", "")
