"""The shipped demo router: it belongs to the shipped model, and its report names it rightly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from allrounder.demo.scenes import Split
from allrounder.layout import sequential_layout
from allrounder.router.checkpoint import load_router
from allrounder.router.decisions import quota
from allrounder.router.training.examples import SceneExamples
from allrounder.router.training.measure import measure, random_scorer, router_scorer
from allrounder.router.training.references import References
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import prompt_batch

MODELS = Path(__file__).parents[2] / "models"


def test_it_belongs_to_the_shipped_model():
    vlm = Checkpoint(MODELS / "demo")
    router = load_router(MODELS / "demo-router", model_spec=vlm.spec, model_digest=vlm.digest)
    record = json.loads((MODELS / "demo-router" / "router.json").read_text())
    assert router.attention == record["training"]["attention"]
    assert router.scope == "prompt"
    assert (MODELS / "demo-router" / "README.md").is_file()


def test_it_has_the_digest_that_its_fidelity_report_names():
    record = (MODELS / "demo-router" / "router.json").read_bytes()
    report = json.loads((MODELS / "demo-router" / "report.json").read_text())
    assert hashlib.sha256(record).hexdigest() == report["router"]


@torch.no_grad()
def test_it_gives_the_scores_that_it_gave():
    """Those of the first edition, where a prompt was one image between two texts, in every ninety-sixth place."""
    vlm = Checkpoint(MODELS / "demo")
    router = load_router(MODELS / "demo-router", model_spec=vlm.spec, model_digest=vlm.digest)
    prompt = prompt_batch([sequential_layout([1, 2, 9, 3, 4, 5], 9, [576])])
    rows = torch.sin(torch.arange(prompt.input_ids.shape[1] * 128, dtype=torch.float64) * 0.37).float()
    tokens, layers = router(rows.reshape(1, -1, 128), prompt)
    wanted = torch.tensor([0.110962, -0.094876, -0.126444, 0.024999, -0.108814, 0.076451])
    torch.testing.assert_close(tokens[0, ::96], wanted, rtol=0, atol=1e-4)
    wanted = torch.tensor([-0.618659, -0.218174, 0.096166, 0.839059, -0.544510, -0.714795])
    torch.testing.assert_close(layers[0, ::4], wanted, rtol=0, atol=1e-4)


@pytest.mark.timeout(280)
def test_it_keeps_more_of_the_model_than_random_scores():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm = load_model(MODELS / "demo")
    router = load_router(MODELS / "demo-router", model_spec=vlm.spec, model_digest=vlm.digest)
    references = References(vlm, SceneExamples(Split.VALIDATION, 11_000, 5, 3))
    budgets = [quota(name, 24) for name in ("par-lite", "par-nano")]
    learned = measure(vlm, references, router_scorer(router), budgets, 2)
    random = measure(vlm, references, random_scorer(vlm, 1), budgets, 2)
    torch.set_num_threads(before)
    for ours, chance in zip(learned, random, strict=True):
        assert ours.divergence < chance.divergence
        assert ours.agreement >= chance.agreement
