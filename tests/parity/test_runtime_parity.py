"""Removed equals masked, for engines: the runtime on frozen graphs against the stock model, masked.

Every tiny shape, K = 0 and 2, static and dynamic; conversations with no image, one, two and three, text before,
between and after them, three turns; keep at four values in one bundle; 20 decoded tokens. Given the graph's own image
tokens, keep indices and kept layers, logits are within 1e-4 of the reference's standard deviation, and greedy tokens
are the same.
"""

import functools
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from allrounder.calib.layer_ranking import ranked
from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.options import EngineOptions
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.layout import keep_counts
from allrounder.pruning import pruning_config
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.runtime.engine import open_engines
from allrounder.versions import EVERYTHING
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision
from allrounder.vlm.random.model import TINY, write_random_checkpoint

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 20
DECISIONS = [  # version, K, policy
    ("full", 0, "static"),
    ("par-lite", 2, "dynamic"),
    ("par-lite", 2, "static"),
    ("par-nano", 0, "dynamic"),
    ("par-nano", 0, "static"),
]
KEEPS = (None, Fraction(2, 5), 3, EVERYTHING)
QUESTIONS = ("what is it?", "how many red circles are there?", "naïve 日本 </s> <image>?")
RGB = np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8)
IMAGES = [RGB, *(np.random.default_rng(seed).integers(0, 256, (61, 19, 3), np.uint8) for seed in (8, 9))]


def turn(*parts, role="user"):
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


CONVERSATIONS = {  # None stands for an image; LLaVA's own template puts a turn's images first
    "text alone": [turn("what is it?")],
    "one image": [turn(None, "what is it?")],
    "two images": [turn("first:", None, "second:", None, "and?")],
    "three turns": [
        turn(None, "a?"), turn("a red ring", role="assistant"), turn("b?", None), turn("no", role="assistant"),
        turn(None, "why?"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made():
    """Gives (model, router, bundle, engines by decision) of a shape in a backend, made once."""
    folder = Path(tempfile.mkdtemp(prefix="runtime-parity-"))

    @functools.cache
    def frozen(shape, precision, scope):
        place = folder / f"{shape}-{precision}-{scope}"
        place.mkdir()
        vlm = load_model(write_random_checkpoint(place / "model", shape))
        torch.manual_seed(1)
        attention = "causal" if scope == "prompt" else "bidirectional"
        router = MetaRouter(vlm.spec, vlm.model.config.text_config, attention, scope=scope)
        save_router(router, place / "router", model_digest=vlm.digest)
        freezer = Freezer(place / "model", place / "router", place / "frozen", FreezeOptions(precision=precision))
        freezer.shared()
        depth = vlm.spec.decoder.layers
        for name, prune_layer, policy in DECISIONS:
            pruning = pruning_config(name, layers=depth, prune_layer=prune_layer, layer_policy=policy)
            freezer.add(ranked(pruning, [*range(depth - 1, prune_layer - 1, -1)]))
        freezer.finish()
        return vlm, router.eval(), place

    @functools.cache
    def get(shape, name="onnxruntime", precision="fp32", scope="prompt"):
        vlm, router, place = frozen(shape, precision, scope)
        with Staging(place / name) as staging:
            backend(name).build(place / "frozen", staging, BuildOptions())
            publish(staging)
        bundle = open_bundle(place / name)
        engines = open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))
        return vlm, router, bundle, {engine.entry.pruning.key: engine for engine in engines}

    yield get
    shutil.rmtree(folder)


def started(engine, messages, keep=None, free_slots=STEPS, change=lambda layout: layout):
    """Returns layout, image tokens and state of a request; ``change`` is what prefill gets of the layout."""
    layout = engine.layout(messages)
    image_embeds = engine.embed(engine.prepare(IMAGES[: len(layout.tokens_by_image)]))
    scores = engine.route(layout, image_embeds)
    state = engine.prefill(change(layout), image_embeds, scores, keep=keep, free_slots=free_slots)
    return layout, image_embeds, state


def greedy(engine, messages, keep=None, count=STEPS, change=lambda layout: layout):
    """Returns layout, image tokens, decision, and ``count`` tokens with the logits that chose them."""
    layout, image_embeds, state = started(engine, messages, keep, count, change)
    rows = [state.logits[0]]
    ids = [int(rows[0].argmax())]
    while len(ids) < count:
        rows.append(engine.decode(state, ids[-1:])[0, 0])
        ids.append(int(rows[-1].argmax()))
    return layout, image_embeds, state, ids, np.stack(rows)


def assert_removed_equals_masked(vlm, engine, messages, keep, change=lambda layout: layout):
    pruning = engine.entry.pruning
    layout, image_embeds, state, ids, logits = greedy(engine, messages, keep, change=change)
    counts = keep_counts(layout, pruning.keep_rule if keep is None else keep)
    kept_of = [layout.image_of[index] for index in state.keep_indices]
    assert tuple(kept_of.count(image) for image in range(len(counts))) == counts
    assert len(state.kept_layers) == pruning.layers
    embeds = torch.from_numpy(np.array(image_embeds.numpy()))[None]
    keep_indices = torch.tensor([state.keep_indices], dtype=torch.int64)
    decision = PruningDecision(keep_indices, state.kept_layers, pruning.prune_layer)
    wanted = masked_logits(vlm, embeds, prompt_batch([layout]), decision, torch.tensor([ids[:-1]]))[0].numpy()
    assert np.abs(logits - wanted).max() <= TOLERANCE * wanted.std()
    assert wanted.argmax(axis=-1).tolist() == ids


def check(made, shape, name, decision, scope="prompt"):
    vlm, _, _, engines = made(shape, name, scope=scope)
    engine = engines[decision]
    for messages in CONVERSATIONS.values():
        for keep in KEEPS if decision[0] != "full" else (None, EVERYTHING):
            assert_removed_equals_masked(vlm, engine, messages, keep)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: "-".join(map(str, decision)))
@pytest.mark.parametrize("shape", TINY)
def test_onnxruntime_removed_equals_masked(made, shape, decision):
    check(made, shape, "onnxruntime", decision)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: "-".join(map(str, decision)))
@pytest.mark.parametrize(
    "shape",
    ["llama-gqa-tied", *(pytest.param(shape, marks=pytest.mark.slow) for shape in TINY if shape != "llama-gqa-tied")],
)
def test_openvino_removed_equals_masked(made, shape, decision):
    check(made, shape, "openvino", decision)


def test_a_router_that_scores_image_by_image(made):
    check(made, "llama-mha", "onnxruntime", ("par-lite", 2, "dynamic"), scope="image")


@pytest.mark.parametrize("fault", ["positions", "next position", "quota"])
def test_a_planted_fault_is_found(made, monkeypatch, fault):
    """Kept tokens renumbered; the next token placed behind the kept prompt; an image's quota taken from another's."""
    vlm, _, _, engines = made("llama-mha")
    engine = engines["par-lite", 2, "static"]

    def faulty(layout):
        dropped = layout.image_tokens - sum(keep_counts(layout, engine.entry.pruning.keep_rule))
        if fault == "next position":
            return layout._replace(next_position=layout.next_position - dropped)
        last = layout.image_index[-1]
        shifted = tuple(row - dropped if row > last else row for row in range(layout.rows))
        return layout._replace(position_ids=(shifted,), next_position=layout.next_position - dropped)

    def moved(layout, keep):
        first, *others = keep_counts(layout, keep)
        return (first + others[0], 0, *others[1:])

    assert_removed_equals_masked(vlm, engine, CONVERSATIONS["two images"], None)
    if fault == "quota":
        monkeypatch.setattr("allrounder.runtime.engine.keep_counts", moved)
    change = (lambda layout: layout) if fault == "quota" else faulty
    with pytest.raises(AssertionError):
        assert_removed_equals_masked(vlm, engine, CONVERSATIONS["two images"], None, change)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 5e-2)])
def test_half_precision_says_nearly_the_same(made, precision, most):
    _, _, _, engines = made("llama-gqa-tied")
    _, _, _, halves = made("llama-gqa-tied", precision=precision)
    for decision, half in halves.items():
        assert half.embed_image(RGB).numpy().dtype == np.float16
        for messages in CONVERSATIONS.values():
            *_, state, _, logits = greedy(half, messages, count=3)
            *_, wanted_state, _, wanted = greedy(engines[decision], messages, count=3)
            assert logits.dtype == np.float32
            if (state.keep_indices, state.kept_layers) == (wanted_state.keep_indices, wanted_state.kept_layers):
                assert np.abs(logits[0] - wanted[0]).max() <= most * wanted.std()


@pytest.mark.parametrize("scope", ["prompt", "image"])
def test_the_routers_scores_are_the_eager_ones(made, scope):
    vlm, router, _, engines = made("llama-mha", scope=scope)
    engine, pruned = engines["par-lite", 2, "dynamic"], PrunedModel(vlm)
    for messages in CONVERSATIONS.values():
        layout, image_embeds, _ = started(engine, messages)
        batch = prompt_batch([layout])
        embeds = torch.from_numpy(np.array(image_embeds.numpy()))[None]
        with torch.no_grad():
            wanted = router(pruned.embeddings(embeds, batch), batch)
        got = engine.route(layout, image_embeds)
        for ours, theirs in ((got.token_scores, wanted.token_scores[0]), (got.layer_scores, wanted.layer_scores[0])):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * float(wanted.layer_scores.std()))


def test_shared_weights_and_threads_give_the_same_tokens(made):
    _, _, bundle, engines = made("llama-mha")
    for weights, threads in (("shared", 1), ("fast", 2), ("shared", 2)):
        for other in open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=threads, weights=weights)):
            *_, wanted_state, wanted_ids, wanted = greedy(engines[other.entry.pruning.key], question("why?"), count=12)
            *_, state, ids, logits = greedy(other, question("why?"), count=12)
            assert ids == wanted_ids
            assert (state.keep_indices, state.kept_layers) == (wanted_state.keep_indices, wanted_state.kept_layers)
            assert np.abs(logits - wanted).max() <= TOLERANCE * wanted.std()


def test_tokens_decoded_together_equal_tokens_decoded_alone(made):
    _, _, _, engines = made("qwen2-siglip")
    for engine in engines.values():
        *_, ids, logits = greedy(engine, CONVERSATIONS["two images"], count=9)
        for parts in ([8], [3, 5], [1, 6, 1]):
            state, start = started(engine, CONVERSATIONS["two images"], free_slots=8)[2], 0
            for count in parts:
                got = engine.decode(state, ids[start : start + count])[0]
                start += count
                assert np.abs(got - logits[start - count + 1 : start + 1]).max() <= TOLERANCE * logits.std()


def test_caches_are_grown_in_place_and_skipped_layers_hold_nothing(made):
    _, _, _, engines = made("llama-gqa-tied")
    engine = engines["par-lite", 2, "dynamic"]
    layout, _, state = started(engine, CONVERSATIONS["two images"], free_slots=6)
    caches = {name: slots.first(1) for name, slots in state.cache._caches.items()}
    places = {name: tensor.data_ptr() for name, tensor in caches.items()}
    for token in (70, 71, 72):
        engine.decode(state, [token])
    for name, tensor in caches.items():
        layer = int(name.rpartition(".")[2])
        tokens = layout.image_tokens if layer < 2 else len(state.keep_indices)
        rows = layout.text_tokens + tokens + 6 if layer in state.kept_layers else 0
        assert tensor.shape()[2] == rows
        assert tensor.data_ptr() == places[name]
        held = np.abs(tensor.numpy()).max(axis=(0, 1, 3))
        assert (held[:-3] > 0).all()
        assert (held[-3:] == 0).all()
