"""The shipped demo model: stock masked, eager removing and runtime agree, token by token, on held-out questions.

Two questions of the test split for each of the five versions; marked slow, all fifty for each. Given the runtime's own
pixel values, keep indices and kept layers; router scores are compared apart, elsewhere.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from allrounder import build_engine
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.runtime import Runtime
from allrounder.versions import VERSIONS, resolve
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PrunedModel, PruningDecision

QUESTIONS = 50
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory):
    """All five versions of the shipped model, built by the command of the README."""
    out = tmp_path_factory.mktemp("demo") / "bundle"
    assert build_engine.main(["--version", "all", "--layer-policy", "dynamic", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def vlm():
    """The shipped model, in float32 as its engines are."""
    return load_model(Path(__file__).parents[2] / "models" / "demo", dtype=torch.float32)


@pytest.fixture(scope="module")
def questions():
    """Held-out questions: neither the model nor the router saw these scenes or these handwritten digits."""
    return list(examples(Split.TEST, QUESTIONS))


@pytest.mark.parametrize("asked", [2, pytest.param(QUESTIONS, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
@pytest.mark.parametrize(("place", "version"), list(enumerate(VERSIONS)), ids=list(VERSIONS))
def test_three_ways_one_answer(demo_bundle, vlm, questions, place, version, asked):
    first = place * QUESTIONS // len(VERSIONS)  # each version begins elsewhere
    chosen = [*questions[first:], *questions[:first]][:asked]
    pruned = PrunedModel(vlm)
    stops = vlm.stop_ids
    with Runtime.load(demo_bundle, version=version) as runtime:
        for example in chosen:
            answer = runtime.generate(example.image, example.question, max_new_tokens=NEW_TOKENS)
            pixels = torch.from_numpy(_pixel_values(vlm, example.image))
            image_embeds, prompt = pruned.image_embeds(pixels)[None], model_prompt(vlm, [example.question])
            decision = PruningDecision(
                torch.tensor([answer.keep_indices]), answer.kept_layers, runtime.entry.pruning.prune_layer
            )
            eager = pruned.greedy(pruned.prefill(image_embeds, prompt, decision), NEW_TOKENS, stops)[0].tolist()
            assert list(answer.token_ids) == eager
            given = torch.tensor([answer.token_ids[:-1]], dtype=torch.int64)
            masked = masked_logits(vlm, image_embeds, prompt, decision, given)
            assert masked[0].argmax(dim=-1).tolist() == eager


@pytest.mark.parametrize("version", VERSIONS)
def test_the_keep_indices_is_as_long_as_the_budget(demo_bundle, vlm, questions, version):
    decoder = vlm.spec.decoder
    budget = resolve(version, tokens=vlm.spec.image_tokens, layers=decoder.layers)
    with Runtime.load(demo_bundle, version=version) as runtime:
        answer = runtime.generate(questions[0].image, questions[0].question, max_new_tokens=1)
    assert len(answer.keep_indices) == budget.tokens
    assert len(answer.kept_layers) == budget.layers
    assert list(answer.keep_indices) == sorted(set(answer.keep_indices))


def _pixel_values(vlm, image):
    return pixel_values(vlm.images, prepare_images(vlm.images, [np.asarray(image, np.uint8)]).tiles)
