"""FLOPs: the paper's table, our own figures, and what must hold for every decoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.calib.flops import DecoderSize, paper_flops, true_flops
from allrounder.errors import InputInvalid, InvalidBudget
from allrounder.versions import Budget, resolve

TERA = 10**12
FULL, LITE = (resolve(name, tokens=576, layers=32) for name in ("full", "par-lite"))
LLAVA_7B = DecoderSize(hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128, layers=32)
# Table 1 of PAR (ICCV 2025), TFLOPs of LLaVA-1.5-7B
PAPER = {(576, 32): 11.05, (576, 24): 8.29, (256, 28): 6.89, (176, 28): 6.19, (144, 24): 5.18, (128, 24): 5.07}
# True mode, 64 text tokens, K = 2: with the router and without
TRUE = {(256, 28): (4.222, 3.943), (176, 28): (3.361, 3.082), (144, 24): (2.679, 2.399), (128, 24): (2.534, 2.254)}


def true_7b(budget: Budget, router_layers: int = 0, **other) -> int:
    known = {"image_tokens": 576, "text_tokens": 64, "prune_layer": 2, "router_layers": router_layers}
    return true_flops(LLAVA_7B, budget, **{**known, **other})


@pytest.mark.parametrize("budget", PAPER)
def test_paper_mode_gives_the_papers_table(budget):
    flops = paper_flops(LLAVA_7B, Budget(*budget), image_tokens=576)
    assert flops / TERA == pytest.approx(PAPER[budget], rel=0.01)


@pytest.mark.parametrize("budget", TRUE)
def test_true_mode_at_64_text_tokens(budget):
    with_router, alone = TRUE[budget]
    assert true_7b(Budget(*budget), 1) / TERA == pytest.approx(with_router, abs=6e-4)
    assert true_7b(Budget(*budget)) / TERA == pytest.approx(alone, abs=6e-4)


def test_full_is_everything_without_a_router():
    assert true_7b(FULL) / TERA == pytest.approx(8.504, abs=6e-4)
    assert true_7b(FULL, prune_layer=0) == true_7b(FULL, prune_layer=31)


def test_the_modes_differ_where_they_must():
    paper = paper_flops(LLAVA_7B, LITE, image_tokens=576) / paper_flops(LLAVA_7B, FULL, image_tokens=576)
    true = true_7b(LITE, 1) / true_7b(FULL)
    assert paper == pytest.approx(0.469, abs=0.005)
    assert true == pytest.approx(0.315, abs=0.001)


def test_one_layer_counted_by_hand():
    # hidden 6, MLP 10, 4 query heads and 2 kv heads of 3; 5 image and 2 text rows
    size = DecoderSize(hidden=6, intermediate=10, heads=4, kv_heads=2, head_dim=3, layers=1)
    queries, keys, values, out = 6 * 12, 6 * 6, 6 * 6, 12 * 6
    products = 7 * (queries + keys + values + out + 3 * 6 * 10)
    pairs = 7 * 7 * 12 * 2
    counts = {"image_tokens": 5, "text_tokens": 2, "prune_layer": 0}
    assert true_flops(size, Budget(5, 1), **counts, router_layers=0) == 2 * (products + pairs)


def test_grouped_queries_cost_less_and_the_paper_does_not_see_them():
    grouped = LLAVA_7B._replace(kv_heads=8)
    counts = {"image_tokens": 576, "text_tokens": 64, "prune_layer": 2, "router_layers": 1}
    assert true_flops(grouped, LITE, **counts) < true_flops(LLAVA_7B, LITE, **counts)
    assert paper_flops(grouped, LITE, image_tokens=576) == paper_flops(LLAVA_7B, LITE, image_tokens=576)


sizes = st.builds(
    DecoderSize,
    hidden=st.integers(1, 300),
    intermediate=st.integers(1, 900),
    heads=st.integers(1, 8),
    kv_heads=st.integers(1, 8),
    head_dim=st.integers(1, 64),
    layers=st.integers(1, 12),
)


@given(sizes, st.integers(1, 60), st.integers(0, 50), st.integers(0, 2), st.data())
def test_more_kept_costs_more_and_a_prefill_is_its_layers(size, image_embeds, text, router, data):
    gather = data.draw(st.integers(0, size.layers - 1))
    layers = data.draw(st.integers(max(gather, 1), size.layers))
    tokens = data.draw(st.integers(1, image_embeds))
    budget = Budget(tokens, layers)
    counts = {"image_tokens": image_embeds, "text_tokens": text, "prune_layer": gather}
    flops = true_flops(size, budget, **counts, router_layers=router)
    paper = paper_flops(size, budget, image_tokens=image_embeds)
    assert min(flops, paper) > 0
    if tokens < image_embeds:
        more = budget._replace(tokens=tokens + 1)
        assert (true_flops(size, more, **counts, router_layers=router) > flops) == (layers > gather)
        assert (paper_flops(size, more, image_tokens=image_embeds) > paper) == (layers > 3)
    if layers < size.layers:
        more = budget._replace(layers=layers + 1)
        assert true_flops(size, more, **counts, router_layers=router) > flops
        assert paper_flops(size, more, image_tokens=image_embeds) > paper
    full = Budget(image_embeds, size.layers)
    whole = true_flops(size, full, **counts, router_layers=0)
    assert whole % size.layers == 0, "full is M equal layers"
    # A router's layer on its rows is a layer of the model's on those rows, then its head.
    alone = true_flops(size, budget, **counts, router_layers=0)
    rows = {**counts, "text_tokens": text + size.layers}
    layer = true_flops(size, full, **rows, router_layers=0) // size.layers
    assert flops - alone == router * layer + bool(router) * 2 * size.hidden * (image_embeds + size.layers)


@pytest.mark.parametrize("budget", [(0, 4), (577, 4), (576, 0), (576, 33), (10, 1)])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(InvalidBudget):
        true_7b(Budget(*budget))
    if budget != (10, 1):  # one layer is possible where nothing says that two stand before the gather
        with pytest.raises(InvalidBudget):
            paper_flops(LLAVA_7B, Budget(*budget), image_tokens=576)


@pytest.mark.parametrize("name", ["text_tokens", "router_layers"])
def test_negative_counts_are_refused(name):
    with pytest.raises(InputInvalid, match=name):
        true_7b(LITE, **{name: -1})
