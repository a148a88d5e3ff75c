"""Removed equals masked: the eager removing host against the stock model, masked (see vlm/masked.py).

The spine of the suite: every tiny shape, K = 0 and 2, static and dynamic layers, one row and three of unequal length,
prompt and decoded tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allrounder.versions import VERSIONS, Budget, resolve
from allrounder.vlm.host import Host, load_host
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.prompt import host_prompt
from allrounder.vlm.pruned import Flow, PrunedHost, full_flow
from allrounder.vlm.random_model import TINY, write_random_checkpoint

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 4
QUESTIONS = ("what is the red object?", "where?", "how many <image> are there in the picture\n\nand why")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small take 30 times longer when threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def hosts(tmp_path_factory) -> dict[str, Host]:
    root = tmp_path_factory.mktemp("hosts")
    return {shape: load_host(write_random_checkpoint(root / shape, shape)) for shape in TINY}


def pictures(host: Host, batch: int, seed: int = 0) -> torch.Tensor:
    size = host.spec.vision.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_flow(host: Host, batch: int, gather_layer: int, *, per_row: bool, seed: int = 0) -> Flow:
    """Half of the tokens, and about two thirds of the layers."""
    decoder, tokens = host.spec.decoder, host.spec.visual_tokens
    budget = Budget(tokens // 2, max(gather_layer, decoder.layers - 2))
    return budget_flow(host, batch, gather_layer, budget, per_row=per_row, seed=seed)


def budget_flow(host: Host, batch: int, gather_layer: int, budget: Budget, *, per_row: bool, seed: int = 0) -> Flow:
    tokens, layers = budget
    generator = torch.Generator().manual_seed(seed)
    total, depth = host.spec.visual_tokens, host.spec.decoder.layers
    keep = torch.stack([torch.randperm(total, generator=generator)[:tokens].sort().values for _ in range(batch)])
    plans = []
    for _ in range(batch):
        free = torch.randperm(depth - gather_layer, generator=generator)[: layers - gather_layer] + gather_layer
        plans.append(sorted([*range(gather_layer), *free.tolist()]))
    if not per_row:
        return Flow(keep, tuple(plans[0]), gather_layer)
    mask = torch.zeros(batch, depth, dtype=torch.bool)
    for row, plan in enumerate(plans):
        mask[row, plan] = True
    return Flow(keep, mask, gather_layer)


def assert_removed_equals_masked(host: Host, batch: int, flow: Flow) -> None:
    pruned, prompt = PrunedHost(host), host_prompt(host, QUESTIONS[:batch])
    visual = pruned.visual(pictures(host, batch))
    state = pruned.prefill(visual, prompt, flow)
    found, answer = [state.logits[:, None]], []
    for _ in range(STEPS):
        answer.append(found[-1][:, -1].argmax(dim=-1, keepdim=True))
        found.append(pruned.decode(state, answer[-1]))
    answer_ids, logits = torch.cat(answer, dim=1), torch.cat(found, dim=1)
    wanted = masked_logits(host, visual, prompt, flow, answer_ids)
    assert wanted.std() > 0.5  # logits that differ, or else greedy tokens would mean nothing
    assert (logits - wanted).abs().max() <= TOLERANCE * wanted.std()
    assert torch.equal(logits.argmax(dim=-1), wanted.argmax(dim=-1))
    scored = pruned.score(visual, prompt, flow, answer_ids)
    assert (scored - wanted[:, :-1]).abs().max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("gather_layer", [0, 2])
@pytest.mark.parametrize(("batch", "per_row"), [(1, False), (1, True), (3, False), (3, True)])
def test_removed_equals_masked(hosts, shape, gather_layer, batch, per_row):
    flow = random_flow(hosts[shape], batch, gather_layer, per_row=per_row)
    assert_removed_equals_masked(hosts[shape], batch, flow)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_budget(hosts, data):
    host = hosts[data.draw(st.sampled_from(TINY))]
    total, depth = host.spec.visual_tokens, host.spec.decoder.layers
    gather_layer = data.draw(st.integers(0, depth - 1))
    tokens = data.draw(st.sampled_from([1, total]) | st.integers(1, total))
    lowest = max(gather_layer, 1)
    layers = data.draw(st.sampled_from([lowest, depth]) | st.integers(lowest, depth))
    batch = data.draw(st.sampled_from([1, 3]))
    per_row, seed = data.draw(st.booleans()), data.draw(st.integers(0, 1000))
    assert_removed_equals_masked(
        host, batch, budget_flow(host, batch, gather_layer, Budget(tokens, layers), per_row=per_row, seed=seed)
    )


@pytest.mark.parametrize("shape", TINY)
def test_everything_kept_is_the_stock_model(hosts, shape):
    """Nothing of ours on the other side: ids with N image tokens, pixels, `forward` and `generate`."""
    host = hosts[shape]
    pruned, prompt, pixels = PrunedHost(host), host_prompt(host, QUESTIONS[:1]), pictures(host, 1)
    image = torch.full((1, host.spec.visual_tokens), host.spec.image_token_id)
    ids = torch.cat([prompt.prefix_ids, image, prompt.suffix_ids], dim=1)
    with torch.no_grad():
        wanted = host.model(input_ids=ids, pixel_values=pixels).logits
    state = pruned.prefill(pruned.visual(pixels), prompt, full_flow(host, gather_layer=2))
    suffix = pruned.head(state.suffix_hidden)
    assert (suffix - wanted[:, -suffix.shape[1] :]).abs().max() <= TOLERANCE * wanted.std()
    stock = host.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(pruned.greedy(state, STEPS, host.stop_ids), stock[:, ids.shape[1] :])


@pytest.mark.parametrize("gather_layer", [0, 2])
def test_a_padded_row_gives_what_it_gives_alone(hosts, gather_layer):
    host = hosts["llama-gqa-tied"]
    pruned, prompt = PrunedHost(host), host_prompt(host, QUESTIONS)
    visual = pruned.visual(pictures(host, 3))
    flow = random_flow(host, 3, gather_layer, per_row=True)
    together = pruned.prefill(visual, prompt, flow)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    decoded = pruned.decode(together, ids)
    for row in range(3):
        one = slice(row, row + 1)
        alone = pruned.prefill(visual[one], prompt.row(row), Flow(flow.keep[one], flow.plan[one], gather_layer))
        torch.testing.assert_close(alone.logits, together.logits[one], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(pruned.decode(alone, ids[one]), decoded[one], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("gather_layer", [0, 2])
def test_many_flows_of_one_prompt_are_scored_at_once(hosts, gather_layer):
    host = hosts["qwen3-siglip-layers"]
    pruned, prompt = PrunedHost(host), host_prompt(host, QUESTIONS[:1])
    visual, answer = pruned.visual(pictures(host, 1)), torch.tensor([40, 41, 42, 43, 44])
    flows = random_flow(host, 7, gather_layer, per_row=True)
    scored = pruned.score(visual, prompt, flows, answer)
    for row in range(7):
        one = Flow(flows.keep[row : row + 1], flows.plan[row : row + 1], gather_layer)
        wanted = masked_logits(host, visual, prompt, one, answer[None])[:, :-1]
        assert (scored[row] - wanted[0]).abs().max() <= TOLERANCE * wanted.std()


def test_pruning_is_visible(hosts):
    """The parity above would be empty if dropping tokens and layers changed nothing."""
    for host in hosts.values():
        pruned, prompt = PrunedHost(host), host_prompt(host, QUESTIONS[:1])
        visual = pruned.visual(pictures(host, 1))
        full = pruned.prefill(visual, prompt, full_flow(host)).logits
        everything, all_layers = full_flow(host).keep, full_flow(host).plan
        fewer = pruned.prefill(visual, prompt, Flow(everything[:, ::2], all_layers, 2)).logits
        shallower = pruned.prefill(visual, prompt, Flow(everything, all_layers[:-1], 2)).logits
        assert (fewer - full).abs().max() > 100 * TOLERANCE
        assert (shallower - full).abs().max() > 0.1


def test_what_is_removed_is_gone(hosts):
    host = hosts["llama-gqa-tied"]
    pruned, prompt = PrunedHost(host), host_prompt(host, QUESTIONS[:1])
    flow = budget_flow(host, 1, 2, Budget(3, 4), per_row=False)
    state = pruned.prefill(pruned.visual(pictures(host, 1)), prompt, flow)
    text = prompt.prefix_ids.shape[1] + prompt.suffix_ids.shape[1]
    assert sorted(state.cache.layers) == list(flow.plan)
    for layer, (keys, _) in state.cache.layers.items():
        assert keys.shape[2] == text + (host.spec.visual_tokens if layer < 2 else 3)


DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="session")
def demo() -> Host:
    return load_host(DEMO)


@pytest.mark.skipif(not (DEMO / "config.json").is_file(), reason="models/demo is not in this checkout")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_demo_model(demo, version):
    budget = resolve(version, tokens=demo.spec.visual_tokens, layers=demo.spec.decoder.layers)
    assert_removed_equals_masked(demo, 1, budget_flow(demo, 1, 2, budget, per_row=True))
    assert_removed_equals_masked(demo, 2, budget_flow(demo, 2, 2, budget, per_row=False))
