"""DivPrune and CDPruner, each held to a plain computation of what its docstring says, and to the stock model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruner_views import MEASURING, SHAPES, order_of, setting_of, view_of

from allrounder.router.pruners import TOKEN_PRUNERS, embed_pixels
from allrounder.router.pruners.diverse import RIDGE, greedy_determinant, greedy_max_min, relevance
from allrounder.router.selection import keep_indices
from allrounder.vlm.llava.random_model import write_random_checkpoint
from allrounder.vlm.model import LoadedModel, load_model


@pytest.fixture(scope="module", params=SHAPES)
def vlm(request, tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), SHAPES[request.param]))


def brute_divprune(features: np.ndarray) -> list[int]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    everyone = range(len(unit))
    kept: list[int] = []
    while len(kept) < len(unit):
        left = [one for one in everyone if one not in kept]
        against = {one: [other for other in (kept or everyone) if other != one] for one in left}
        kept.append(max(left, key=lambda one: round(min(distance[one, other] for other in against[one]), 12)))
    return kept


def test_divprune_equals_a_brute_force_greedy(vlm):
    view = view_of(vlm)
    order = order_of(TOKEN_PRUNERS["divprune"](setting_of(vlm))(view))
    assert order == [brute_divprune(row.double().numpy()) for row in view.image_embeds]


def test_divprune_by_hand():
    # Directions in degrees. The neighbour of 200 is 110 away, all others have one at 10: it is first. 10 is 170 from
    # it, the farthest; then 90, 80 from 10; then 0 and 80, each 10 from a kept one: the lower index first.
    angles = torch.tensor([0.0, 10.0, 80.0, 90.0, 200.0], dtype=torch.float64).deg2rad()
    distance = (1 - torch.cos(angles[:, None] - angles[None])).round(decimals=12)
    assert greedy_max_min(distance[None]).tolist() == [[4, 1, 3, 0, 2]]


def test_equal_tokens_still_give_an_order(vlm):
    view = view_of(vlm)
    same = embed_pixels(vlm, view.image_embeds[:, :1].expand_as(view.image_embeds), view.prompt, view.identity)
    empty = embed_pixels(vlm, torch.zeros_like(view.image_embeds), view.prompt, view.identity)
    for name, flat in itertools.product(sorted(MEASURING), (same, empty)):
        scores = TOKEN_PRUNERS[name](setting_of(vlm))(flat)
        assert scores.isfinite().all(), name
        assert keep_indices(scores, 4).diff(dim=1).min() > 0, name
    assert order_of(TOKEN_PRUNERS["divprune"](setting_of(vlm))(same))[0] == list(range(vlm.spec.image_tokens))


def brute_determinants(kernel: np.ndarray) -> list[int]:
    kept: list[int] = []
    while len(kept) < len(kernel):
        left = [one for one in range(len(kernel)) if one not in kept]
        kept.append(max(left, key=lambda one: np.linalg.det(kernel[np.ix_([*kept, one], [*kept, one])])))
    return kept


def test_the_greedy_order_equals_brute_force_determinants():
    generator = np.random.default_rng(0)
    kernels, weights = [], []
    for _ in range(6):
        features = generator.normal(size=(9, 12)) + 1
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        kernels.append(unit @ unit.T + 1e-3 * np.eye(9))
        weights.append(generator.uniform(0.05, 1, 9))
    order = greedy_determinant(torch.tensor(np.stack(kernels)), torch.tensor(np.stack(weights))).tolist()
    scaled = [np.sqrt(np.outer(weight, weight)) * kernel for kernel, weight in zip(kernels, weights, strict=True)]
    assert order == [brute_determinants(kernel) for kernel in scaled]
    assert len({tuple(row) for row in order}) > 1


def test_the_greedy_order_by_hand():
    # 0 is the most relevant; 1 is nearly its copy, so 2 comes before it though it weighs less; 3 weighs nothing.
    similarity = torch.tensor([[1, 0.99, 0, 0], [0.99, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.9, 0.1, 0.0], dtype=torch.float64)
    assert greedy_determinant(similarity[None], weight[None]).tolist() == [[0, 2, 1, 3]]


def test_cdpruner_is_that_order_on_the_papers_kernel(vlm):
    view = view_of(vlm)
    order = order_of(TOKEN_PRUNERS["cdpruner"](setting_of(vlm))(view))
    start = view.prompt.prefix_ids.shape[1] + vlm.spec.image_tokens
    for row in range(3):
        features = view.image_embeds[row].double().numpy()
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        question = view.embeddings[row, start : start + int(view.prompt.suffix_lengths[row])].double().mean(0).numpy()
        cosine = unit @ question / np.linalg.norm(question)
        close = (cosine - cosine.min()) / (cosine.max() - cosine.min())
        np.testing.assert_allclose(relevance(view)[row].numpy(), close, atol=1e-9)
        kernel = np.outer(close, close) * (unit @ unit.T + RIDGE * np.eye(len(unit)))
        # determinants of many tokens are tiny: the first dozen by brute force, the rest by logarithms, until weight 0
        kept = order[row]
        assert kept[:12] == brute_determinants(kernel)[:12]
        for size in range(12, len(kept) - 1):
            logs = {
                one: np.linalg.slogdet(kernel[np.ix_([*kept[:size], one], [*kept[:size], one])])[1]
                for one in kept[size:-1]
            }
            assert logs[kept[size]] >= max(logs.values()) - 1e-6
        assert kept[-1] == int(close.argmin())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_greedy_orders_are_permutations_whatever_the_features(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-1, 2, (2, count, width), generator=generator).double()  # many equal, opposite and zero
    kernel = features @ features.transpose(1, 2)
    weight = torch.randint(0, 3, (2, count), generator=generator).double()
    everyone = torch.arange(count).expand(2, -1)
    assert torch.equal(greedy_max_min(1 - kernel).sort().values, everyone)
    assert torch.equal(greedy_determinant(kernel + RIDGE * torch.eye(count), weight).sort().values, everyone)
