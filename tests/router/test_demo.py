"""The shipped demo router: it belongs to the shipped model, and its report names it rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from allrounder.demo.scenes import Split
from allrounder.router.checkpoint import load_router
from allrounder.router.training.examples import SceneExamples
from allrounder.router.training.measure import measure, random_scorer, router_scorer
from allrounder.router.training.references import References
from allrounder.versions import resolve
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_model

MODELS = Path(__file__).parents[2] / "models"


def test_it_belongs_to_the_shipped_model():
    vlm = Checkpoint(MODELS / "demo")
    router = load_router(MODELS / "demo-router", model_spec=vlm.spec, model_digest=vlm.digest)
    record = json.loads((MODELS / "demo-router" / "router.json").read_text())
    assert router.attention == record["training"]["attention"]
    assert (MODELS / "demo-router" / "README.md").is_file()


@pytest.mark.timeout(280)
def test_it_keeps_more_of_the_model_than_random_scores():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm = load_model(MODELS / "demo")
    router = load_router(MODELS / "demo-router", model_spec=vlm.spec, model_digest=vlm.digest)
    references = References(vlm, SceneExamples(Split.VALIDATION, 11_000, 5, 3))
    budgets = [resolve(name, tokens=576, layers=24) for name in ("par-lite", "par-nano")]
    learned = measure(vlm, references, router_scorer(router), budgets, 2)
    random = measure(vlm, references, random_scorer(vlm, 1), budgets, 2)
    torch.set_num_threads(before)
    for ours, chance in zip(learned, random, strict=True):
        assert ours.divergence < chance.divergence
        assert ours.agreement >= chance.agreement
