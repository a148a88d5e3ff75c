"""The engine's functions on real, tiny ONNX graphs: what they compute must not depend on how it is asked."""

import itertools
from fractions import Fraction

import fake_bundle
import msgspec
import numpy as np
import pytest
from image_plans import fixed_plan

from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import BackendError, BundleCorrupt, EngineUnavailable, InputInvalid, PromptTooLong
from allrounder.layout import sequential_layout
from allrounder.runtime.engine import Engine, EngineOptions, open_engines

IMAGES = [np.random.default_rng(seed).integers(0, 256, (9, 6, 3), np.uint8) for seed in (3, 4, 5)]
RGB = IMAGES[0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(fake_bundle.write_bundle(tmp_path_factory.mktemp("engine") / "bundle"))


@pytest.fixture(scope="module")
def engines(bundle):
    return {e.entry.version: e for e in open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))}


def start(engine, text="what is it?", free_slots=8, images=1, keep=None):
    layout = engine.layout(question(text, images) if images else [{"role": "user", "content": text}])
    image_embeds = engine.embed(engine.prepare(IMAGES[:images]))
    scores = engine.route(layout, image_embeds)
    return layout, image_embeds, scores, engine.prefill(layout, image_embeds, scores, keep=keep, free_slots=free_slots)


def longer(layout, tokens):
    """The same prompt with more text behind it."""
    of = dict(zip(layout.image_index, layout.image_of, strict=True))
    again = {row for row in of if of.get(row - 1) == of[row]}  # an image is one placeholder
    short = [each for row, each in enumerate(layout.input_ids) if row not in again]
    return sequential_layout([*short, *tokens], fake_bundle.IMAGE, layout.tokens_by_image)


@pytest.mark.parametrize("version", fake_bundle.KEPT_LAYERS)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_decoding_equals_a_longer_prompt(engines, version, images):
    engine = engines[version]
    layout, image_embeds, scores, state = start(engine, images=images)
    tokens = [70, 71, 72, 73]
    rows = [engine.decode(state, [token])[0, 0] for token in tokens]
    for count, row in enumerate(rows, start=1):
        whole = engine.prefill(longer(layout, tokens[:count]), image_embeds, scores, free_slots=0)
        np.testing.assert_allclose(row, whole.logits[0], rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("images", [0, 1, 3])
def test_two_clocks(engines, images):
    tokens = fake_bundle.IMAGE_EMBEDS
    for version, kept in (("full", tokens), ("t2-l2", 2)):
        layout, _, _, state = start(engines[version], free_slots=3, images=images)
        rows, held = layout.text_tokens + images * tokens, layout.text_tokens + images * kept
        assert state.cache.clocks() == (rows, rows, held, 3)
        engines[version].decode(state, [60, 61])
        assert state.cache.clocks() == (rows + 2, rows + 2, held + 2, 1)


def test_the_decision_is_reported(engines):
    state = start(engines["full"])[3]
    assert state.keep_indices == tuple(range(fake_bundle.IMAGE_EMBEDS))
    assert state.kept_layers == (0, 1, 2)
    _, _, scores, state = start(engines["t2-l2"], images=2)
    best = [np.sort(np.argsort(-half, kind="stable")[:2]) for half in np.split(scores.token_scores, 2)]
    assert state.keep_indices == (*best[0].tolist(), *(best[1] + fake_bundle.IMAGE_EMBEDS).tolist())
    assert state.kept_layers == (0, 2)
    assert scores.token_scores.shape == (2 * fake_bundle.IMAGE_EMBEDS,)
    assert scores.layer_scores.shape == (fake_bundle.LAYERS,)


@pytest.mark.parametrize(("keep", "kept"), [(None, 2), (Fraction(1, 4), 1), (3, 3), (9, 4), (Fraction(1), 4)])
def test_a_request_may_keep_what_it_wants(engines, keep, kept):
    layout, _, scores, state = start(engines["t2-l2"], keep=keep)
    assert state.keep_indices == tuple(sorted(np.argsort(-scores.token_scores, kind="stable")[:kept].tolist()))
    assert state.cache.clocks().kept_slot == layout.text_tokens + kept


def test_an_entry_that_keeps_every_token_refuses_to_drop_some(engines):
    with pytest.raises(InputInvalid, match="keeps every image token"):
        start(engines["full"], keep=2)
    start(engines["full"], keep=Fraction(1))


def test_the_cache_grows_in_place_and_its_size_is_that_of_its_rows(engines):
    layout, _, _, state = start(engines["t2-l2"], free_slots=5)
    text = layout.text_tokens
    rows = (text + fake_bundle.IMAGE_EMBEDS + 5) + (text + 2 + 5)  # layer 0 sees all, layer 2 the kept ones
    assert state.cache.numbers == rows * 2 * fake_bundle.HIDDEN
    before = state.cache._caches["cache_key.2"].first(1).data_ptr()
    engines["t2-l2"].decode(state, [60])
    assert state.cache._caches["cache_key.2"].first(1).data_ptr() == before
    held = state.cache._caches["cache_key.2"].first(1).numpy()[0, 0]
    assert np.abs(held[text + 2]).max() > 0
    assert np.abs(held[text + 3 :]).max() == 0


@pytest.mark.parametrize("version", fake_bundle.KEPT_LAYERS)
def test_sequences_of_any_length_decode_together(engines, version):
    engine = engines[version]
    pool, states = engine.pool(3), []
    for text, images in (("hi", 0), ("what is it?", 2), ("and this one?", 1)):
        layout, image_embeds, scores, state = start(engine, text, images=images)
        states.append(state)
        together = engine.prefill(layout, image_embeds, scores, free_slots=8, pool=pool)
        assert (together.cache, together.keep_indices) == (pool, state.keep_indices)
        np.testing.assert_allclose(together.logits, state.logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputInvalid, match="pool is full"):
        engine.prefill(layout, image_embeds, scores, free_slots=8, pool=pool)
    for ids in ([[60], [61], [62]], [[63, 64], [65, 66], [67, 68]], [[69], [70], [71]]):
        together = pool.advance(ids)
        for slot, state in enumerate(states):
            np.testing.assert_allclose(together[slot], engine.decode(state, ids[slot])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", fake_bundle.KEPT_LAYERS)
def test_an_image_matters_where_it_stands(engines, version):
    engine = engines[version]

    def logits(parts, order):
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        layout = engine.layout([{"role": "user", "content": content}])
        image_embeds = engine.embed(engine.prepare([IMAGES[image] for image in order]))
        scores = engine.route(layout, image_embeds)
        return engine.prefill(layout, image_embeds, scores, free_slots=0).logits

    first = logits((None, "a", None, "b"), (0, 1))
    assert np.abs(logits((None, "a", None, "b"), (1, 0)) - first).max() > 1e-3
    assert np.abs(logits((None, None, "a", "b"), (0, 1)) - first).max() > 1e-3
    np.testing.assert_array_equal(logits((None, "a", None, "b"), (0, 1)), first)


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
        engine.prefill(engine.layout(question("what?")), engine.embed_image(RGB), None, free_slots=1)
    assert engines["full"].route(engine.layout(question("what?")), engine.embed_image(RGB)) is None


def test_a_prompt_over_the_limits_is_refused_with_its_count(engines):
    engine, limits = engines["full"], fake_bundle.LIMITS
    longest = limits.text_tokens - len("USER: \n ASSISTANT:")
    engine.layout(question("x" * longest))
    with pytest.raises(PromptTooLong, match=f"got: {limits.text_tokens + 1} text tokens"):
        engine.layout(question("x" * (longest + 1)))
    with pytest.raises(PromptTooLong, match=f"got: {limits.images + 1} images"):
        engine.layout(question("x", limits.images + 1))


def test_prompt_and_answer_fit_the_models_longest_sequence(engines):
    layout = engines["full"].layout(question("x" * 40, 3))
    free = fake_bundle.MAX_POSITIONS - layout.rows
    start(engines["full"], "x" * 40, free_slots=free, images=3)
    with pytest.raises(PromptTooLong, match="longest sequence"):
        start(engines["full"], "x" * 40, free_slots=free + 1, images=3)


def test_shared_weights_give_the_same(bundle, engines):
    for entry in bundle.manifest.entries:
        shared = Engine.open(bundle, entry, EngineOptions(threads=1, weights="shared"))
        wanted = start(engines[entry.version])[3].logits
        np.testing.assert_allclose(start(shared)[3].logits, wanted, rtol=1e-5, atol=1e-5)


def test_graphs_in_common_are_loaded_once(engines):
    full, pruned = (engines[version]._sessions for version in fake_bundle.KEPT_LAYERS)
    assert full.vision is pruned.vision
    assert full.decoder is not pruned.decoder


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
    (folder / "graphs/full.decoder.onnx").write_bytes(b"no graph")
    bundle = open_bundle(fake_bundle.write_manifest(folder, [fake_bundle.entry("full")]))
    with pytest.raises(BackendError, match=r"full\.decoder\.onnx"):
        Engine.open(bundle, bundle.manifest.entries[0])


def test_a_tokenizer_that_gives_other_ids_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    fake_bundle.write_graphs(folder)
    (folder / "tokenizer/golden.jsonl").write_bytes(
        b'{"messages": [{"role": "user", "content": "x"}], "text": "", "input_ids": [3]}\n'
    )
    bundle = open_bundle(fake_bundle.write_manifest(folder, [fake_bundle.entry("full")]))
    with pytest.raises(BundleCorrupt, match="other ids"):
        Engine.open(bundle, bundle.manifest.entries[0])


def test_a_failing_graph_is_a_backend_error(engines):
    with pytest.raises(BackendError, match=r"vision\.onnx"):
        engines["full"].embed(engines["full"].prepare([RGB])._replace(tiles=np.zeros((1, 5, 5, 3), np.uint8)))


KINDS = ("vision", "router", "decoder")


@pytest.mark.parametrize(("kind", "other"), [*itertools.product(KINDS, (*KINDS, "full.decoder"))])
def test_a_graph_in_the_place_of_another_is_the_backends_error(bundle, kind, other):
    entry = bundle.manifest.entries[1]
    graphs = msgspec.structs.asdict(entry.graphs)
    place = graphs.get(other, f"graphs/{other}.onnx")
    if place == graphs[kind]:
        place = "graphs/full.decoder.onnx" if kind == "decoder" else graphs["decoder"]
    wrong = msgspec.structs.replace(entry, graphs=msgspec.structs.replace(entry.graphs, **{kind: place}))
    engine = Engine.open(bundle, wrong, EngineOptions(threads=1))
    with pytest.raises(BackendError):
        engine.decode(start(engine)[3], [60])


def test_a_manifest_that_counts_otherwise_is_the_backends_error(bundle):
    for change in ({"vocabulary": 2**40}, {"images": fixed_plan(5, fake_bundle.SIZE)}, {"layers": 7}):
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
