"""Prompts and images in pieces: logits, answers and image tokens are those of the whole."""

import numpy as np
import pytest
import torch
from batches import IMAGES, requests_of, scheduled, told, turn
from hypothesis import given
from hypothesis import strategies as st

from allrounder import tensors
from allrounder.commands.pipeline.random_model import build_bundle_of, build_shape, write_random_model
from allrounder.engines.sessions import BFLOAT16
from allrounder.images.pixels import token_sources
from allrounder.progress import silent
from allrounder.router.selection import best_indices
from allrounder.runtime import Engine, EngineOptions, Runtime, cache
from allrounder.versions import FULL

TOLERANCE = 1e-4  # of the standard deviation
ENTRIES = [
    (version, backend, policy)
    for version, policy in ((FULL, "static"), ("par-lite", "static"), ("par-lite", "dynamic"))
    for backend in ("onnxruntime", "openvino")
]
SCORES = st.sampled_from([0.0, -0.0, 1.0, 2.0, float("nan"), float("-inf"), float("inf")])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder, backends = tmp_path_factory.mktemp("pieces"), ("onnxruntime", "openvino")
    return build_shape("onevision-siglip-qwen3", folder, [FULL, "par-lite"], silent, ("static", "dynamic"), backends)


@pytest.fixture(scope="module", params=ENTRIES, ids="-".join)
def entry(bundle, request):
    entries = {(each.version, each.backend, each.pruning.layer_policy): each for each in bundle.manifest.entries}
    return entries[request.param]


def test_one_prompts_logits_and_the_next_tokens(bundle, entry):
    whole = Engine.open(bundle, entry, EngineOptions(threads=1))
    images = whole.prepare(IMAGES[:1])
    layout = whole.layout_of(whole.ids(turn("what is it?", 1)), images.planned)
    keeps = [None, 2, 1] if entry.pruning.prunes else [None]
    for keep in keeps:
        wanted = whole.start(images, layout, keep=keep, free_slots=3)
        after = whole.decode(wanted, [5, 6, 7])
        for rows in (1, 3, 16, layout.rows - 1):
            engine = Engine.open(bundle, entry, EngineOptions(threads=1, prefill_rows=rows))
            state = engine.start(images, layout, keep=keep, free_slots=3)
            assert state.keep_indices == wanted.keep_indices
            assert state.kept_layers == wanted.kept_layers
            for got, expected in ((state.logits, wanted.logits), (engine.decode(state, [5, 6, 7]), after)):
                assert abs(got - expected).max() <= TOLERANCE * expected.std()


def test_many_requests_answer_as_with_whole_prompts(bundle, entry):
    with Runtime(Engine.open(bundle, entry, EngineOptions(threads=1))) as runtime:
        wanted = [told(runtime.chat(**each)) for each in requests_of(runtime)]
    with Runtime(Engine.open(bundle, entry, EngineOptions(threads=1, prefill_rows=6))) as runtime:
        requests = requests_of(runtime)
        assert [told(runtime.chat(**each)) for each in requests] == wanted
        assert [told(each) for each in scheduled(runtime, requests, [0, 0, 3, 4, 4, 9, 12, 30])] == wanted


def test_no_more_rows_than_asked_for_reach_the_decoder(bundle, entry, monkeypatch):
    engine, seen = Engine.open(bundle, entry, EngineOptions(threads=1, prefill_rows=10)), []
    bind = cache.Pool._bind

    def spy(self, given, *rest):
        seen.append(given[tensors.INPUT_IDS].shape()[1])
        return bind(self, given, *rest)

    monkeypatch.setattr(cache.Pool, "_bind", spy)
    images = engine.prepare(IMAGES[:1])
    layout = engine.layout_of(engine.ids(turn("what is it?", 1)), images.planned)
    engine.start(images, layout, free_slots=0)
    assert sum(seen) == layout.rows
    assert max(seen) <= 10


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", ["onevision-siglip-qwen2", "llama-gqa-tied"])
def test_few_tiles_at_once_give_the_image_tokens_of_all(tmp_path, shape, precision, backend):
    """On canvases that are interpolated and that are not, in the middle of an image and of several."""
    if (backend, precision) == ("onnxruntime", "bf16"):
        pytest.skip("ONNX Runtime has no bfloat16 on a CPU")
    pair = write_random_model(tmp_path, shape)._replace(precision=precision)
    bundle = build_bundle_of(pair, tmp_path / "bundle", [FULL], silent, ("static",), [backend])
    (entry,) = bundle.manifest.entries
    whole = Engine.open(bundle, entry, EngineOptions(threads=1))
    few = [Engine.open(bundle, entry, EngineOptions(threads=1, prefill_rows=rows)) for rows in (1, 40)]
    interpolated = 0
    for sizes in ([(120, 130)], [(40, 150)], [(5, 7)], [(42, 42), (60, 60), (20, 200)]):
        images = whole.prepare([np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in sizes])
        interpolated += bool((token_sources(whole.model.images, images.planned).weights[:, 0] != 1).any())
        wanted = embedded(whole, images)
        for engine in few:
            found = embedded(engine, images)
            assert found.shape == wanted.shape
            # The graph rounds the shares of an interpolated token to bfloat16 as well.
            rounding = 2**-7 * (abs(wanted) + wanted.std()) if precision == "bf16" else 0
            assert (abs(found - wanted) <= TOLERANCE * wanted.std() + rounding).all()
    assert bool(interpolated) == (shape == "onevision-siglip-qwen2")


def embedded(engine, images):
    tensor = engine.embed(images)
    array = tensor.numpy().copy()  # which lies in the tensor's memory
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if array.dtype == BFLOAT16 else array


def staying(feeds):
    names = (tensors.TOKEN_SCORES, tensors.IMAGE_OF, tensors.KEEP_COUNTS)
    return cache.keep_indices(*(feeds[name] for name in names))


@given(st.data())
def test_pieces_are_the_prompt_and_keep_what_it_keeps(data):
    """Any interleaving of text and images, any scores; the last row is text."""
    rows = [*data.draw(st.lists(st.sampled_from([-1, 0, 1, 2]).map(int), max_size=30)), -1]
    image_of = np.array(sorted(each for each in rows if each >= 0), np.int64)
    tokens = np.bincount(image_of, minlength=3)
    feeds = {
        tensors.INPUT_IDS: np.arange(len(rows))[None],
        tensors.POSITION_IDS: np.arange(len(rows))[None, None] + 7,
        tensors.IMAGE_EMBEDS: np.arange(len(image_of))[:, None],
        tensors.IMAGE_INDEX: np.flatnonzero([each >= 0 for each in rows]),
        tensors.IMAGE_OF: image_of,
        tensors.TOKEN_SCORES: np.array([data.draw(SCORES) for _ in image_of], np.float32),
        tensors.KEEP_COUNTS: np.array([data.draw(st.integers(min(1, n), n)) for n in tokens]),
        tensors.LOGITS_TO_KEEP: np.ones(1, np.int64),
    }
    scores, counts = (torch.from_numpy(feeds[name])[None] for name in (tensors.TOKEN_SCORES, tensors.KEEP_COUNTS))
    wanted = best_indices(scores, torch.from_numpy(image_of)[None], counts)[0]
    kept = staying(feeds)
    assert kept.tolist() == wanted[wanted >= 0].tolist()
    most = data.draw(st.integers(1, 12))
    parts = cache.pieces(feeds, most)
    for name, axis in ((tensors.INPUT_IDS, 1), (tensors.POSITION_IDS, 2), (tensors.IMAGE_EMBEDS, 0)):
        assert np.array_equal(np.concatenate([part[name] for part in parts], axis), feeds[name])
    slot, kept_slot, found = 0, 0, []
    for part in parts:
        ids, embeds = part[tensors.INPUT_IDS][0], part[tensors.IMAGE_EMBEDS][:, 0]
        assert 1 <= len(ids) <= most
        assert (part[tensors.SLOTS], part[tensors.KEPT_SLOTS]) == (slot, kept_slot)
        assert np.array_equal(ids[part[tensors.IMAGE_INDEX]], feeds[tensors.IMAGE_INDEX][embeds])
        stay = embeds[staying(part)]  # by the rule that the graph's gather has
        assert len(ids) - len(embeds) + len(stay) >= 1, "no layer runs over nothing"
        stays = [each for each in stay if each in kept]
        assert stays == stay.tolist() or (not stays and len(stay) == 1)
        slot, kept_slot = slot + len(ids), kept_slot + len(ids) - len(embeds) + len(stays)
        found += stays
    assert found == kept.tolist()
