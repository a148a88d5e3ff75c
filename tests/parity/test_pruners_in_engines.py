"""Any pruner's scores in an engine: the flow is the one that the scores say, and the logits are the removing host's."""

import numpy as np
import pytest
import torch

from allrounder.engines.bundle.reader import open_bundle
from allrounder.router.flows import cut
from allrounder.router.pruners import Setting, look, pruner
from allrounder.runtime.engine import Engine, EngineOptions, Scores
from allrounder.vlm.host import load_host
from allrounder.vlm.prompt import host_prompt
from allrounder.vlm.pruned import Flow, PrunedHost

QUESTION = "what is number 1?"


@pytest.mark.parametrize("name", ["random+random", "stride+shortgpt", "fastv+none", "dart+random", "cdpruner+shortgpt"])
def test_an_engine_runs_the_flow_that_a_pruner_says(tiny, tiny_bundle, name):
    bundle = open_bundle(tiny_bundle)
    entry = next(entry for entry in bundle.manifest.entries if entry.version == "par-lite")
    engine = Engine.open(bundle, entry, EngineOptions(threads=1))
    host = load_host(tiny.host)
    removing = PrunedHost(host)
    rgb = np.random.default_rng(5).integers(0, 256, (40, 52, 3), np.uint8)

    pixels = torch.from_numpy(engine.preprocess(rgb).numpy().copy())
    visual, prompt = removing.visual(pixels), host_prompt(host, [QUESTION])
    view = look(host, visual, prompt, ["0"])
    found = pruner(name, Setting(host, entry.pruning.prune_layer, 0, (view,)))(view)
    scores = Scores(*(part.numpy() for part in found))
    state = engine.prefill(engine.prompt(QUESTION), engine.see(rgb), scores, room=0)

    flow = cut(found, entry.pruning.budget, entry.pruning.prune_layer)
    assert state.keep_list == tuple(flow.keep[0].tolist())
    assert state.layer_plan == tuple(flow.plan[0].nonzero().flatten().tolist())
    expected = removing.prefill(visual, prompt, Flow(flow.keep, flow.plan, entry.pruning.prune_layer)).logits
    assert np.abs(state.logits - expected.numpy()).max() <= 1e-4 * float(expected.std())
