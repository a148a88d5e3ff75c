"""Every version of the shipped demo model as a pruned checkpoint: stock transformers gives the frozen graphs' tokens.

Held-out questions, rows at their positions in the unpruned prompt. A stack that counts the rows it is given answers
otherwise; docs/backends.md says how often.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_rows import decoder_rows
from transformers import LlavaForConditionalGeneration

from allrounder.calib.layer_ranking import layer_order, ranked
from allrounder.chat.messages import question
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.engines.backends import BuildOptions
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.checkpoint.build import write_checkpoint
from allrounder.engines.onnxruntime.build import build
from allrounder.export.freezer import Freezer
from allrounder.prompts import read_prompts
from allrounder.pruning import pruning_config
from allrounder.runtime.engine import Engine
from allrounder.serving.kept_rows import RowReader
from allrounder.versions import FULL, VERSIONS

MODELS = Path(__file__).parents[2] / "models"
VOTERS, NEW_TOKENS = 8, 12


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A bundle of all versions with K = 0, and the checkpoint of each."""
    folder = tmp_path_factory.mktemp("demo")
    freezer = Freezer(MODELS / "demo", MODELS / "demo-router", folder / "frozen")
    freezer.shared()
    model = {"layers": freezer.spec.decoder.layers, "prune_layer": 0}
    freezer.add(pruning_config("par-lite", **model, layer_policy="dynamic"))
    freezer.finish()
    with Staging(folder / "voting") as staging:
        build(folder / "frozen", staging, BuildOptions())
        voting = open_bundle(staging.path)
        prompts = read_prompts(MODELS / "demo" / "calibration" / "prompts.jsonl").prompts[:VOTERS]
        order = layer_order(Engine.open(voting, voting.manifest.entries[0]), prompts, 0)
    for name in VERSIONS:
        freezer.add(ranked(pruning_config(name, **model, layer_policy="static"), order))
    freezer.finish()
    only = frozenset((name, 0, "static") for name in VERSIONS)
    with Staging(folder / "staged") as staging:
        for entry in build(folder / "frozen", staging, BuildOptions(only=only)):
            write_checkpoint(folder / "frozen", entry, folder / entry.version)
        staging.path.rename(folder / "bundle")
    return folder


@torch.no_grad()
def along(model, read, answer):
    """Returns the stock model's logits [A, V] along an answer, at the positions of the unpruned prompt."""
    embed = model.get_input_embeddings()
    inputs = decoder_rows(read, embed, answer[:-1])[None]
    first = read.layout.next_position
    positions = torch.tensor([[*read.positions[0], *range(first, first + len(answer) - 1)]])
    # Without mask and cache transformers takes gaps between positions for borders of packed sequences.
    seen = torch.ones_like(positions)
    return model(inputs_embeds=inputs, position_ids=positions, attention_mask=seen, logits_to_keep=len(answer)).logits[
        0
    ]


@pytest.mark.parametrize("asked", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("place", "version"), list(enumerate(VERSIONS)), ids=list(VERSIONS))
def test_a_checkpoint_answers_as_its_frozen_version(demo, place, version, asked):
    questions = list(examples(Split.TEST, asked, first_seed=100 * place))
    bundle = open_bundle(demo / "bundle")
    entry = next(entry for entry in bundle.manifest.entries if entry.version == version)
    engine, reader = Engine.open(bundle, entry), RowReader(demo / version)
    model = LlavaForConditionalGeneration.from_pretrained(str(demo / version), dtype=torch.float32).eval()
    assert len(model.model.language_model.layers) == entry.pruning.layers
    for example in questions:
        image_embeds, layout = engine.embed_image(np.asarray(example.image)), engine.layout(question(example.question))
        state = engine.prefill(layout, image_embeds, engine.route(layout, image_embeds), free_slots=NEW_TOKENS)
        logits = [state.logits[0]]
        while len(logits) < NEW_TOKENS and int(logits[-1].argmax()) not in engine.model.stop_ids:
            logits.append(engine.decode(state, [int(logits[-1].argmax())])[0, -1].copy())
        wanted = torch.from_numpy(np.stack(logits))
        answer = wanted.argmax(dim=-1).tolist()
        read = reader.read(example.image, example.question)
        assert read.keep == state.keep_indices
        assert np.array_equal(read.rows, image_embeds.numpy()[list(read.keep)])
        got = along(model, read, answer)
        assert got.argmax(dim=-1).tolist() == answer
        assert float((got - wanted).abs().max() / wanted.std()) <= 1e-4
    assert (reader.sidecar.graphs.router is None) == (version == FULL)
