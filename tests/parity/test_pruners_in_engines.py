"""Any pruner's scores in an engine: the decision is the one that the scores say, and the logits are the removing
model's.
"""

import numpy as np
import pytest
import torch

from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import open_bundle
from allrounder.images.pixels import pixel_values
from allrounder.router.decisions import cut, quota
from allrounder.router.pruners import Setting, embed_pixels, pruner
from allrounder.runtime.engine import Engine, EngineOptions, Scores
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PrunedModel, PruningDecision

QUESTION = "what is number 1?"


@pytest.mark.parametrize("name", ["random+random", "stride+shortgpt", "fastv+none", "dart+random", "cdpruner+shortgpt"])
def test_an_engine_runs_the_decision_that_a_pruner_says(tiny, tiny_bundle, name):
    bundle = open_bundle(tiny_bundle)
    entry = next(entry for entry in bundle.manifest.entries if entry.version == "par-lite")
    engine = Engine.open(bundle, entry, EngineOptions(threads=1))
    vlm = load_model(tiny.vlm)
    removing = PrunedModel(vlm)
    rgb = np.random.default_rng(5).integers(0, 256, (40, 52, 3), np.uint8)

    pixels = torch.from_numpy(pixel_values(vlm.images, engine.prepare([rgb]).tiles))
    image_embeds, prompt = removing.image_embeds(pixels)[None], model_prompt(vlm, [QUESTION])
    view = embed_pixels(vlm, image_embeds, prompt, ["0"])
    found = pruner(name, Setting(vlm, entry.pruning.prune_layer, 0, (view,))).scores(view)
    scores = Scores(*(part[0].numpy() for part in found))
    state = engine.prefill(engine.layout(question(QUESTION)), engine.embed_image(rgb), scores, free_slots=0)

    kept = quota(entry.version, vlm.spec.decoder.layers)
    decision = cut(found, prompt.image_of, kept, entry.pruning.prune_layer)
    assert state.keep_indices == tuple(decision.keep[0].tolist())
    assert state.kept_layers == tuple(decision.layer_mask[0].nonzero().flatten().tolist())
    expected = removing.prefill(
        image_embeds, prompt, PruningDecision(decision.keep, decision.layer_mask, entry.pruning.prune_layer)
    ).logits
    assert np.abs(state.logits - expected.numpy()).max() <= 1e-4 * float(expected.std())
