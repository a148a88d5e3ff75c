"""The runtime on real frozen graphs: the same tokens as the removing model, eagerly, whatever way it is asked.

Tiny random models; given the graph's own pixel values, keep indices and kept layers, greedy tokens are identical and
logits within 1e-4 of their standard deviation. The router's scores are compared apart.
"""

import functools
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from prunings import pruning

from allrounder.engines.backends import BuildOptions
from allrounder.engines.bundle.publish import publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.onnxruntime.build import build
from allrounder.engines.options import EngineOptions
from allrounder.errors import RequestCancelled
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.runtime import Cancellation, Runtime
from allrounder.runtime.engine import Engine, open_engines
from allrounder.versions import resolve
from allrounder.vlm.llava.random_model import write_random_checkpoint
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PrunedModel, PruningDecision

SHAPES = ("llama-gqa-tied", "llama-mha", "qwen2-siglip", "qwen3-siglip-layers")
DECISIONS = [  # version, K, policy
    ("full", 2, "static"),
    ("par-max", 2, "dynamic"),
    ("par-lite", 2, "dynamic"),
    ("par-lite", 2, "static"),
    ("par-nano", 0, "dynamic"),
    ("par-nano", 0, "static"),
]
QUESTIONS = ("what is it?", "how many red circles are there?", "naïve 日本 </s> <image>?")
NEW_TOKENS = 12
RGB = np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made():
    """Gives (model, router, bundle, engines by decision) of a shape, made once."""
    folder = Path(tempfile.mkdtemp(prefix="runtime-parity-"))

    @functools.cache
    def get(shape, precision="fp32"):
        place = folder / f"{shape}-{precision}"
        place.mkdir()
        directory = write_random_checkpoint(place / "model", shape)
        vlm = load_model(directory)
        torch.manual_seed(1)
        router = MetaRouter(vlm.spec, vlm.model.config.text_config)
        save_router(router, place / "router", model_digest=vlm.digest)
        freezer = Freezer(directory, place / "router", place / "frozen", FreezeOptions(precision=precision))
        freezer.shared()
        tokens, layers = vlm.spec.image_tokens, vlm.spec.decoder.layers
        for name, prune_layer, policy in DECISIONS:
            budget = resolve(name, tokens=tokens, layers=layers)
            kept = tuple(sorted({*range(prune_layer), *range(layers - budget.layers + prune_layer, layers)}))
            freezer.add(pruning(budget, prune_layer, kept if policy == "static" else None, name))
        freezer.finish()
        with Staging(place / "bundle") as staging:
            build(place / "frozen", staging, BuildOptions())
            publish(staging)
        bundle = open_bundle(place / "bundle")
        engines = open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))
        by_decision = {e.entry.pruning.key: e for e in engines}
        return vlm, router.eval(), bundle, by_decision

    yield get
    shutil.rmtree(folder)


def reference(vlm, pixel_values, question, decision, count):
    """Returns the greedy tokens of the removing model and the logits [count, V] that chose them."""
    pruned = PrunedModel(vlm)
    state = pruned.prefill(pruned.image_embeds(torch.from_numpy(pixel_values)), model_prompt(vlm, [question]), decision)
    rows = [state.logits[0]]
    ids = [int(rows[0].argmax())]
    while len(ids) < count:
        rows.append(pruned.decode(state, torch.tensor([[ids[-1]]]))[0, 0])
        ids.append(int(rows[-1].argmax()))
    return ids, torch.stack(rows).numpy()


def greedy(engine: Engine, question, count):
    """Returns tokens, logits and decision of an engine; stop tokens are passed over."""
    prompt, image_embeds = engine.prompt(question), engine.embed_image(RGB)
    state = engine.prefill(prompt, image_embeds, engine.route(prompt, image_embeds), free_slots=count)
    rows = [state.logits[0]]
    ids = [int(rows[0].argmax())]
    while len(ids) < count:
        rows.append(engine.decode(state, ids[-1:])[0, 0])
        ids.append(int(rows[-1].argmax()))
    return ids, np.stack(rows), state


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: "-".join(map(str, decision)))
@pytest.mark.parametrize("shape", SHAPES)
def test_the_engine_says_what_the_removing_model_says(made, shape, decision):
    vlm, _, _, engines = made(shape)
    engine = engines[decision]
    for question in QUESTIONS:
        ids, logits, state = greedy(engine, question, NEW_TOKENS)
        assert len(state.keep_indices) == engine.entry.pruning.keep
        assert len(state.kept_layers) == engine.entry.pruning.layers
        eager = PruningDecision(torch.tensor([state.keep_indices]), state.kept_layers, engine.entry.pruning.prune_layer)
        wanted_ids, wanted = reference(vlm, engine.preprocess(RGB).numpy(), question, eager, NEW_TOKENS)
        assert ids == wanted_ids
        assert np.abs(logits - wanted).max() <= 1e-4 * wanted.std()


def test_half_precision_says_nearly_the_same(made):
    _, _, _, engines = made(SHAPES[0])
    _, _, _, halves = made(SHAPES[0], "fp16")
    for decision, half in halves.items():
        assert half.embed_image(RGB).numpy().dtype == np.float16
        _, logits, state = greedy(half, QUESTIONS[0], 3)
        _, wanted, wanted_state = greedy(engines[decision], QUESTIONS[0], 3)
        assert logits.dtype == np.float32
        if (state.keep_indices, state.kept_layers) == (wanted_state.keep_indices, wanted_state.kept_layers):
            assert np.abs(logits[0] - wanted[0]).max() <= 0.05 * wanted.std()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_prompt_is_the_models(made, shape):
    vlm, _, _, engines = made(shape)
    engine = engines[DECISIONS[0]]
    for question in (*QUESTIONS, " a  b\n\n", "<|x|></s>", "\N{GRINNING FACE} é e\u0301"):
        batch = model_prompt(vlm, [question])
        ids = engine.prompt(question)
        assert list(ids.prefix_ids) == batch.prefix_ids[0].tolist()
        assert list(ids.suffix_ids) == batch.suffix_ids[0].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_routers_scores_are_the_eager_ones(made, shape):
    vlm, router, _, engines = made(shape)
    engine, pruned = engines["par-lite", 2, "dynamic"], PrunedModel(vlm)
    for question in QUESTIONS:
        prompt, image_embeds = engine.prompt(question), engine.embed_image(RGB)
        batch = model_prompt(vlm, [question])
        with torch.no_grad():
            wanted = router(pruned.embeddings(torch.from_numpy(image_embeds.numpy()), batch), batch)
        got = engine.route(prompt, image_embeds)
        for ours, theirs in ((got.token_scores, wanted.token_scores), (got.layer_scores, wanted.layer_scores)):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * float(theirs.std()))


@pytest.fixture(scope="module", params=["par-lite", "full"])
def runtime(made, request):
    _, _, bundle, _ = made(SHAPES[0])
    with Runtime.load(bundle.path, version=request.param, threads=1) as runtime:
        yield runtime


def ask(runtime, number, **options):
    image = np.roll(RGB, 5 * number, axis=1)
    return runtime.generate(image, QUESTIONS[number % 3], max_new_tokens=24, **options)


def test_eight_threads_answer_as_one(runtime):
    options = [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}]
    alone = [ask(runtime, number, **options[number % 3]) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda number: ask(runtime, number, **options[number % 3]), range(24)))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.keep_indices, one.kept_layers) == (other.text, other.keep_indices, other.kept_layers)
    assert len({answer.token_ids for answer in alone}) > 4


def test_a_stream_is_the_answer(runtime):
    for number in range(6):
        options = {"temperature": 1.5, "seed": number}
        stream = runtime.stream(np.roll(RGB, 5 * number, axis=1), QUESTIONS[number % 3], max_new_tokens=24, **options)
        whole = ask(runtime, number, **options)
        assert "".join(stream) == whole.text == stream.answer.text
        assert stream.answer.token_ids == whole.token_ids


def test_a_seed_repeats(runtime):
    first, again, other = (ask(runtime, 1, temperature=2.0, seed=seed).token_ids for seed in (5, 5, 6))
    assert first == again != other


def test_cancelling_midway_leaves_the_others_alone(runtime):
    cancel = Cancellation()
    stream = runtime.stream(RGB, QUESTIONS[0], max_new_tokens=24, temperature=2.0, seed=1, cancel=cancel)
    next(stream)
    wanted = ask(runtime, 2).token_ids
    cancel.cancel()
    with pytest.raises(RequestCancelled):
        list(stream)
    assert ask(runtime, 2).token_ids == wanted


def test_shared_weights_and_threads_give_the_same_tokens(made):
    _, _, bundle, engines = made(SHAPES[1])
    for weights, threads in (("shared", 1), ("fast", 2), ("shared", 2)):
        options = EngineOptions(threads=threads, weights=weights)
        for other in open_engines(bundle, bundle.manifest.entries, options):
            entry = other.entry
            mine = engines[entry.pruning.key]
            wanted_ids, wanted, state = greedy(mine, QUESTIONS[1], NEW_TOKENS)
            ids, logits, other_state = greedy(other, QUESTIONS[1], NEW_TOKENS)
            assert ids == wanted_ids
            assert (state.keep_indices, state.kept_layers) == (other_state.keep_indices, other_state.kept_layers)
            assert np.abs(logits - wanted).max() <= 1e-4 * wanted.std()


def test_tokens_decoded_together_equal_tokens_decoded_alone(made):
    _, _, _, engines = made(SHAPES[2])
    for engine in engines.values():
        ids, logits, _ = greedy(engine, QUESTIONS[0], 9)
        prompt, image_embeds = engine.prompt(QUESTIONS[0]), engine.embed_image(RGB)
        scores = engine.route(prompt, image_embeds)
        for parts in ([8], [3, 5], [1, 6, 1]):
            state, start = engine.prefill(prompt, image_embeds, scores, free_slots=8), 0
            for count in parts:
                got = engine.decode(state, ids[start : start + count])[0]
                start += count
                assert np.abs(got - logits[start - count + 1 : start + 1]).max() <= 1e-4 * logits.std()


def test_caches_are_grown_in_place_and_skipped_layers_hold_nothing(made):
    _, _, _, engines = made(SHAPES[0])
    engine = engines["par-lite", 2, "dynamic"]
    prompt, image_embeds = engine.prompt(QUESTIONS[0]), engine.embed_image(RGB)
    state = engine.prefill(prompt, image_embeds, engine.route(prompt, image_embeds), free_slots=6)
    places = {name: tensor.data_ptr() for name, tensor in state.cache._outputs.items()}
    for token in (70, 71, 72):
        engine.decode(state, [token])
    text = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    for name, tensor in state.cache._outputs.items():
        layer = int(name.rpartition(".")[2])
        tokens = engine.model.image_tokens if layer < 2 else engine.entry.pruning.keep
        rows = text + tokens + 6 if layer in state.kept_layers else 0
        assert tensor.shape()[2] == rows
        assert tensor.data_ptr() == places[name]
        held = np.abs(tensor.numpy()).max(axis=(0, 1, 3))
        assert (held[:-3] > 0).all()
        assert (held[-3:] == 0).all()
