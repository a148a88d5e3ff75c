"""vlm/pruned.py: what it refuses, and that scoring costs no more than it must. Parity is in tests/parity."""

from __future__ import annotations

import pytest
import torch

from allrounder.errors import InputInvalid, InvalidBudget, PromptTooLong
from allrounder.vlm.host import load_host
from allrounder.vlm.prompt import host_prompt
from allrounder.vlm.pruned import Flow, PrunedHost, full_flow
from allrounder.vlm.random_model import write_random_checkpoint

DEPTH, TOKENS = 5, 4


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return load_host(write_random_checkpoint(tmp_path_factory.mktemp("pruned") / "host"))


@pytest.fixture(scope="module")
def visual(host):
    return torch.randn(1, TOKENS, host.spec.decoder.hidden, generator=torch.Generator().manual_seed(0))


KEEP = torch.tensor([[0, 2]])
ALL = tuple(range(DEPTH))


@pytest.mark.parametrize(
    "flow",
    [
        Flow(torch.tensor([[2, 0]]), ALL, 0),
        Flow(torch.tensor([[1, 1]]), ALL, 0),
        Flow(torch.tensor([[-1, 1]]), ALL, 0),
        Flow(torch.tensor([[0, TOKENS]]), ALL, 0),
        Flow(torch.tensor([[]], dtype=torch.int64), ALL, 0),
        Flow(torch.arange(TOKENS + 1)[None], ALL, 0),
        Flow(KEEP, (), 0),
        Flow(KEEP, (1, 0), 0),
        Flow(KEEP, (0, 0), 0),
        Flow(KEEP, (0, DEPTH), 0),
        Flow(KEEP, (-1,), 0),
        Flow(KEEP, (0, 2), 2),  # layer 1 stands before the gather
        Flow(KEEP, ALL, DEPTH),
        Flow(KEEP, ALL, -1),
        Flow(KEEP, torch.ones(1, DEPTH - 1, dtype=torch.bool), 0),
        Flow(KEEP, torch.ones(2, DEPTH, dtype=torch.bool), 0),
        Flow(KEEP, torch.ones(1, DEPTH), 0),
        Flow(KEEP, torch.zeros(1, DEPTH, dtype=torch.bool), 0),
    ],
)
def test_impossible_flows(host, visual, flow):
    with pytest.raises(InvalidBudget):
        PrunedHost(host).prefill(visual, host_prompt(host, ["x"]), flow)


def test_rows_that_do_not_fit(host, visual):
    pruned, two = PrunedHost(host), host_prompt(host, ["x", "y"])
    with pytest.raises(InputInvalid, match="as many flows"):
        pruned.prefill(visual, two, full_flow(host, batch=3))
    with pytest.raises(InputInvalid, match="do not fit"):
        pruned.prefill(visual.expand(3, -1, -1), two, full_flow(host, batch=3))
    with pytest.raises(InputInvalid, match="do not fit"):
        pruned.prefill(visual[:, 1:], two, full_flow(host, batch=2))


def test_no_sequence_is_longer_than_the_positions_reach(host, visual):
    pruned, limit = PrunedHost(host), host.spec.decoder.max_positions
    rows = host_prompt(host, ["x"]).prefix_ids.shape[1] + TOKENS + host_prompt(host, [""]).suffix_ids.shape[1]
    longest = host_prompt(host, ["é" * ((limit - rows) // 2) + "x" * ((limit - rows) % 2)])
    state = pruned.prefill(visual, longest, full_flow(host))
    with pytest.raises(PromptTooLong):
        pruned.decode(state, torch.tensor([[5]]))
    with pytest.raises(PromptTooLong):
        pruned.prefill(visual, host_prompt(host, ["x" * (limit - rows + 1)]), full_flow(host))


def test_one_picture_serves_for_many_prompts(host, visual):
    pruned, two = PrunedHost(host), host_prompt(host, ["x", "what is it"])
    shared = pruned.prefill(visual, two, full_flow(host, batch=2)).logits
    own = pruned.prefill(visual.expand(2, -1, -1), two, full_flow(host, batch=2)).logits
    assert torch.equal(shared, own)


def test_layers_before_the_gather_run_once_for_all_flows(host, visual):
    seen = []
    layers = host.model.model.language_model.layers
    handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)) for layer in layers]
    mask = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    prompt = host_prompt(host, ["what is it?"])
    try:
        PrunedHost(host).score(visual, prompt, Flow(KEEP.expand(3, -1), mask, 2), torch.tensor([7, 8, 9]))
    finally:
        for handle in handles:
            handle.remove()
    rows = prompt.prefix_ids.shape[1] + prompt.suffix_ids.shape[1] + 2  # the last answer token is not read
    hidden = host.spec.decoder.hidden
    assert seen == [(1, rows + 4, hidden)] * 2 + [(2, rows + 2, hidden)] * 2  # layer 3 is in no plan: not run


def test_decoding_several_ids_at_once_is_decoding_them_in_turn(host, visual):
    pruned, prompt, flow = PrunedHost(host), host_prompt(host, ["x"]), Flow(KEEP, (0, 1, 3), 2)
    ids = torch.tensor([[9, 8, 7]])
    at_once = pruned.decode(pruned.prefill(visual, prompt, flow), ids)
    state = pruned.prefill(visual, prompt, flow)
    in_turn = torch.cat([pruned.decode(state, ids[:, i : i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(at_once, in_turn, rtol=0, atol=1e-5)


def test_greedy_stops_when_every_row_has_stopped(host, visual):
    pruned, prompt, flow = PrunedHost(host), host_prompt(host, ["x", "y"]), full_flow(host, batch=2)
    free = pruned.greedy(pruned.prefill(visual, prompt, flow), 6)
    assert free.shape == (2, 6)
    stops = {int(free[0, 1]), int(free[1, 2])}
    stopped = pruned.greedy(pruned.prefill(visual, prompt, flow), 6, tuple(stops))
    assert stopped.shape[1] <= 3
    assert torch.equal(stopped, free[:, : stopped.shape[1]])
    assert all(stops & set(row) for row in stopped.tolist())
    assert pruned.greedy(pruned.prefill(visual, prompt, flow), 1).shape == (2, 1)


def test_nothing_asks_for_gradients(host, visual):
    with torch.enable_grad():
        state = PrunedHost(host).prefill(visual.clone().requires_grad_(), host_prompt(host, ["x"]), full_flow(host))
    assert not state.logits.requires_grad
