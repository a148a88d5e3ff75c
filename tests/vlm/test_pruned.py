"""vlm/pruned.py: what it refuses, and that scoring costs no more than it must. Parity is in tests/parity."""

from __future__ import annotations

import pytest
import torch

from allrounder.errors import InputInvalid, InvalidBudget, PromptTooLong
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt, model_prompts
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision
from allrounder.vlm.random.model import write_random_checkpoint

DEPTH, TOKENS = 5, 4


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("pruned") / "model"))


@pytest.fixture(scope="module")
def image_embeds(vlm):
    return torch.randn(1, TOKENS, vlm.spec.decoder.hidden, generator=torch.Generator().manual_seed(0))


KEEP = torch.tensor([[0, 2]])
ALL = tuple(range(DEPTH))


@pytest.mark.parametrize(
    "decision",
    [
        PruningDecision(torch.tensor([[2, 0]]), ALL, 0),
        PruningDecision(torch.tensor([[1, 1]]), ALL, 0),
        PruningDecision(torch.tensor([[-1, 1]]), ALL, 0),
        PruningDecision(torch.tensor([[-2, 1]]), ALL, 0),
        PruningDecision(torch.tensor([[0, -1, 2]]), ALL, 0),
        PruningDecision(torch.tensor([[-1]]), ALL, 0),
        PruningDecision(torch.tensor([[0, 2]], dtype=torch.int32), ALL, 0),
        PruningDecision(torch.tensor([[0, TOKENS]]), ALL, 0),
        PruningDecision(torch.tensor([[]], dtype=torch.int64), ALL, 0),
        PruningDecision(torch.arange(TOKENS + 1)[None], ALL, 0),
        PruningDecision(KEEP, (), 0),
        PruningDecision(KEEP, (1, 0), 0),
        PruningDecision(KEEP, (0, 0), 0),
        PruningDecision(KEEP, (0, DEPTH), 0),
        PruningDecision(KEEP, (-1,), 0),
        PruningDecision(KEEP, (0, 2), 2),  # layer 1 stands before the gather
        PruningDecision(KEEP, ALL, DEPTH),
        PruningDecision(KEEP, ALL, -1),
        PruningDecision(KEEP, torch.ones(1, DEPTH - 1, dtype=torch.bool), 0),
        PruningDecision(KEEP, torch.ones(2, DEPTH, dtype=torch.bool), 0),
        PruningDecision(KEEP, torch.ones(1, DEPTH), 0),
        PruningDecision(KEEP, torch.zeros(1, DEPTH, dtype=torch.bool), 0),
    ],
)
def test_impossible_decisions(vlm, image_embeds, decision):
    with pytest.raises(InvalidBudget):
        PrunedModel(vlm).prefill(image_embeds, model_prompt(vlm, ["x"]), decision)


def test_every_image_keeps_something(vlm, image_embeds):
    both = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "x"}]}
    prompt, embeds = model_prompts(vlm, [[both]]), image_embeds.repeat(1, 2, 1)
    pruned = PrunedModel(vlm)
    with pytest.raises(InvalidBudget, match="image 1"):
        pruned.prefill(embeds, prompt, PruningDecision(KEEP, ALL, 0))
    assert pruned.prefill(embeds, prompt, PruningDecision(torch.tensor([[1, 5]]), ALL, 0)).logits.isfinite().all()


def test_rows_that_do_not_fit(vlm, image_embeds):
    pruned, two = PrunedModel(vlm), model_prompt(vlm, ["x", "y"])
    with pytest.raises(InputInvalid, match="as many decisions"):
        pruned.prefill(image_embeds, two, full_decision(vlm.spec, two.row(0).repeated(3)))
    with pytest.raises(InputInvalid, match="do not fit"):
        pruned.prefill(image_embeds.expand(3, -1, -1), two, full_decision(vlm.spec, two.row(0).repeated(3)))
    with pytest.raises(InputInvalid, match="do not fit"):
        pruned.prefill(image_embeds[:, 1:], two, full_decision(vlm.spec, two))


def test_no_sequence_is_longer_than_the_positions_reach(vlm, image_embeds):
    pruned, limit = PrunedModel(vlm), vlm.spec.decoder.max_positions
    rows = model_prompt(vlm, ["x"]).input_ids.shape[1] - 1
    longest = model_prompt(vlm, ["x" * (limit - rows)])
    assert longest.lengths.tolist() == [limit]
    state = pruned.prefill(image_embeds, longest, full_decision(vlm.spec, longest))
    with pytest.raises(PromptTooLong):
        pruned.decode(state, torch.tensor([[5]]))
    with pytest.raises(PromptTooLong):
        pruned.prefill(image_embeds, model_prompt(vlm, ["x" * (limit - rows + 1)]), full_decision(vlm.spec, longest))


def test_one_image_serves_for_many_prompts(vlm, image_embeds):
    pruned, two = PrunedModel(vlm), model_prompt(vlm, ["x", "what is it"])
    shared = pruned.prefill(image_embeds, two, full_decision(vlm.spec, two)).logits
    own = pruned.prefill(image_embeds.expand(2, -1, -1), two, full_decision(vlm.spec, two)).logits
    assert torch.equal(shared, own)


def test_layers_before_the_gather_run_once_for_all_decisions(vlm, image_embeds):
    seen = []
    layers = vlm.model.model.language_model.layers
    handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)) for layer in layers]
    mask = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    prompt = model_prompt(vlm, ["what is it?"])
    try:
        PrunedModel(vlm).score(
            image_embeds, prompt, PruningDecision(KEEP.expand(3, -1), mask, 2), torch.tensor([7, 8, 9])
        )
    finally:
        for handle in handles:
            handle.remove()
    rows = prompt.input_ids.shape[1] - TOKENS + 2  # the last answer token is not read
    hidden = vlm.spec.decoder.hidden
    assert seen == [(1, rows + 4, hidden)] * 2 + [(2, rows + 2, hidden)] * 2  # layer 3 is kept by no row: not run


def test_decoding_several_ids_at_once_is_decoding_them_in_turn(vlm, image_embeds):
    pruned, prompt, decision = PrunedModel(vlm), model_prompt(vlm, ["x"]), PruningDecision(KEEP, (0, 1, 3), 2)
    ids = torch.tensor([[9, 8, 7]])
    at_once = pruned.decode(pruned.prefill(image_embeds, prompt, decision), ids)
    state = pruned.prefill(image_embeds, prompt, decision)
    in_turn = torch.cat([pruned.decode(state, ids[:, i : i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(at_once, in_turn, rtol=0, atol=1e-5)


def test_greedy_stops_when_every_row_has_stopped(vlm, image_embeds):
    pruned, prompt = PrunedModel(vlm), model_prompt(vlm, ["x", "y"])
    decision = full_decision(vlm.spec, prompt)
    free = pruned.greedy(pruned.prefill(image_embeds, prompt, decision), 6)
    assert free.shape == (2, 6)
    stops = {int(free[0, 1]), int(free[1, 2])}
    stopped = pruned.greedy(pruned.prefill(image_embeds, prompt, decision), 6, tuple(stops))
    assert stopped.shape[1] <= 3
    assert torch.equal(stopped, free[:, : stopped.shape[1]])
    assert all(stops & set(row) for row in stopped.tolist())
    assert pruned.greedy(pruned.prefill(image_embeds, prompt, decision), 1).shape == (2, 1)


def test_nothing_asks_for_gradients(vlm, image_embeds):
    prompt = model_prompt(vlm, ["x"])
    with torch.enable_grad():
        state = PrunedModel(vlm).prefill(image_embeds.clone().requires_grad_(), prompt, full_decision(vlm.spec, prompt))
    assert not state.logits.requires_grad
