"""Teacher-forced runs: held to the removing model, and differentiable where they must be."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch

from allrounder.layout import sequential_layout
from allrounder.router.decisions import Quota
from allrounder.router.reading import answer, read_common
from allrounder.router.selection import keep_indices
from allrounder.router.training.examples import Example
from allrounder.router.training.forced import Answers, Gates, divergence, forced_rows, log_probs, narrow, repeat
from allrounder.router.training.losses import Learner, Moment, batch_loss, gate_loss
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.references import Batch, References
from allrounder.router.training.start import first_router
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import PromptBatch, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision
from allrounder.vlm.random.model import write_random_checkpoint

QUESTIONS = ["what is this?", "where is the very small red thing on the left?", "how many?"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Noise:
    """Random images."""

    name = "noise"

    def __len__(self):
        return 6

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
        return Example(pixels, self.question(index))

    def image(self, index):
        return index

    def question(self, index):
        return QUESTIONS[index % 3]


@pytest.fixture(scope="module", params=["llama-mha", "llama-gqa-tied"])
def vlm(request, tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), request.param))


@pytest.fixture(scope="module")
def references(vlm) -> References:
    return References(vlm, Noise(), answer_tokens=5)


def image_of(vlm: LoadedModel, batch: Batch, row: int) -> torch.Tensor:
    return batch.embeddings[row : row + 1, batch.prompt.image_index[row][: vlm.spec.image_tokens]]


def random_decisions(vlm: LoadedModel, count: int, tokens: int, prune_layer: int) -> PruningDecision:
    generator = torch.Generator().manual_seed(count)
    spec = vlm.spec
    keep = torch.stack([torch.randperm(spec.image_tokens, generator=generator)[:tokens] for _ in range(count)])
    kept_layers = torch.rand(count, spec.decoder.layers, generator=generator) < 0.5
    kept_layers[:, :prune_layer] = True
    kept_layers[:, -1] = True
    return PruningDecision(keep.sort(dim=1).values, kept_layers, prune_layer)


def test_references_are_the_models_own_greedy_answers(vlm, references):
    batch = references.batch([0, 1, 2])
    pruned = PrunedModel(vlm)
    for row in range(3):
        prompt = batch.prompt.row(row)
        state = pruned.prefill(image_of(vlm, batch, row), prompt, full_decision(vlm.spec, prompt))
        ids = pruned.greedy(state, 5, vlm.stop_ids)[0]
        length = int(batch.answers.lengths[row])
        assert ids[:length].tolist() == batch.answers.ids[row, :length].tolist()
        assert not set(ids[: length - 1].tolist()) & set(vlm.stop_ids), "an answer ends at its first stop token"
        logits = pruned.score(image_of(vlm, batch, row), prompt, full_decision(vlm.spec, prompt), ids[:length])
        torch.testing.assert_close(logits[0].log_softmax(-1), batch.log_probs[row, :length], rtol=1e-4, atol=1e-4)
        assert batch.log_probs[row, :length].argmax(-1).tolist() == ids[:length].tolist()


class Ragged(NamedTuple):
    """Prompts with no image, one and two, and made-up answers of unequal length."""

    embeddings: torch.Tensor
    image_embeds: torch.Tensor
    prompt: PromptBatch
    answers: Answers


@pytest.fixture(scope="module")
def ragged(vlm) -> Ragged:
    generator, token, count = torch.Generator().manual_seed(2), vlm.spec.image_token_id, vlm.spec.image_tokens
    ids = [(7, 8, token, 9, 10), (token, 11, 12, token, 13), (14, 15, 16)]
    prompt = prompt_batch([sequential_layout(each, token, [count] * each.count(token)) for each in ids])
    image_embeds = torch.randn(*prompt.image_of.shape, vlm.spec.decoder.hidden, generator=generator)
    answers = Answers(torch.randint(5, 200, (3, 4), generator=generator), torch.tensor([4, 2, 3]))
    return Ragged(PrunedModel(vlm).embeddings(image_embeds, prompt), image_embeds, prompt, answers)


@pytest.mark.parametrize("prune_layer", [0, 2])
def test_ragged_prompts_score_as_the_removing_model_scores_them(vlm, ragged, prune_layer):
    image_of = ragged.prompt.image_of.repeat_interleave(2, dim=0)
    keep = keep_indices(torch.randn(image_of.shape, generator=torch.Generator().manual_seed(0)), image_of, 2)
    layers = torch.rand(6, vlm.spec.decoder.layers, generator=torch.Generator().manual_seed(1)) < 0.6
    layers[:, :prune_layer], layers[:, -1] = True, True
    forced = repeat(forced_rows(vlm, ragged.embeddings, ragged.prompt, ragged.answers, prune_layer), 2)
    found = log_probs(vlm, narrow(forced, keep), prune_layer, Gates(layers=layers))
    tokens = torch.zeros(image_of.shape).scatter_add(1, keep.clamp_min(0), (keep >= 0).float())
    soft = log_probs(vlm, forced, prune_layer, Gates(tokens.clamp_max(1), layers.float()))
    for row in range(6):
        example = row // 2
        prompt, length = ragged.prompt.row(example), int(ragged.answers.lengths[example])
        own = keep[row : row + 1, : int((keep[row] >= 0).sum())]
        wanted = PrunedModel(vlm).score(
            ragged.image_embeds[example : example + 1, : prompt.image_of.shape[1]],
            prompt,
            PruningDecision(own, layers[row : row + 1], prune_layer),
            ragged.answers.ids[example, :length],
        )
        torch.testing.assert_close(found[row, :length], wanted[0].log_softmax(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(soft[row, :length], found[row, :length], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("scope", ["prompt", "image"])
def test_a_ragged_batch_teaches(vlm, ragged, attention, scope):
    """A loss of its own for each row, and a gradient that padding does not spoil."""
    options = TrainOptions(attention=attention, scope=scope, window=1.5)
    router = first_router(vlm, options, None)
    with torch.no_grad():
        whole = repeat(forced_rows(vlm, ragged.embeddings, ragged.prompt, ragged.answers, 2), 1)
        teacher = log_probs(vlm, whole, 2, Gates())
    batch = Batch(ragged.embeddings, ragged.prompt, ragged.answers, teacher)
    moment = Moment(0.5, (Quota(Fraction(1, 2), 4), Quota(2, 3)), torch.Generator().manual_seed(0))
    found = batch_loss(Learner(vlm, router, options), batch, moment, gate_loss)
    found.loss.backward()
    assert found.divergence.isfinite().all()
    assert (found.divergence > 0).all()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in router.parameters())
    assert router.layers[0].mlp.up_proj.weight.grad.any()


def test_a_batch_without_any_image_teaches_layers(vlm, ragged):
    options, prompt = TrainOptions(), ragged.prompt.row(2)
    router, answers = first_router(vlm, options, None), Answers(ragged.answers.ids[2:, :3], torch.tensor([3]))
    embeddings = ragged.embeddings[2:, : int(prompt.lengths)]
    with torch.no_grad():
        teacher = log_probs(vlm, forced_rows(vlm, embeddings, prompt, answers, 2), 2, Gates())
    moment = Moment(0.5, (Quota(Fraction(1, 2), 3),), torch.Generator().manual_seed(0))
    batch = Batch(embeddings, prompt, answers, teacher)
    batch_loss(Learner(vlm, router, options), batch, moment, gate_loss).loss.backward()
    assert router.layer_tokens.grad is not None
    assert router.layer_tokens.grad.any()


@pytest.mark.parametrize("prune_layer", [0, 1, 2])
def test_hard_decisions_score_as_the_removing_model_scores_them(vlm, references, prune_layer):
    batch = references.batch([3, 1, 5])
    forced = repeat(forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, prune_layer), 2)
    decision = random_decisions(vlm, 6, vlm.spec.image_tokens // 2, prune_layer)
    found = log_probs(vlm, narrow(forced, decision.keep), prune_layer, Gates(layers=decision.kept_layers))
    for row in range(6):
        example, length = row // 2, int(batch.answers.lengths[row // 2])
        one = PruningDecision(decision.keep[row : row + 1], decision.kept_layers[row : row + 1], prune_layer)
        wanted = PrunedModel(vlm).score(
            image_of(vlm, batch, example), batch.prompt.row(example), one, batch.answers.ids[example, :length]
        )
        torch.testing.assert_close(found[row, :length], wanted[0].log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_gates_at_their_ends_are_the_hard_decision(vlm, references):
    batch = references.batch([0, 1])
    forced = forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, 1)
    decision = random_decisions(vlm, 2, 3, 1)
    hard = log_probs(vlm, narrow(forced, decision.keep), 1, Gates(layers=decision.kept_layers))
    tokens = torch.zeros(2, vlm.spec.image_tokens).scatter(1, decision.keep, 1.0)
    soft = log_probs(vlm, forced, 1, Gates(tokens, decision.kept_layers.float()))
    torch.testing.assert_close(soft, hard, rtol=1e-3, atol=1e-3)  # a closed gate is 1e-6, not 0


def test_open_gates_are_the_unpruned_model(vlm, references):
    batch = references.batch([0, 4])
    forced = forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, 2)
    ones = Gates(torch.ones(2, vlm.spec.image_tokens), torch.ones(2, vlm.spec.decoder.layers))
    found = divergence(batch.log_probs, log_probs(vlm, forced, 2, ones), forced.counted)
    assert found.abs().max() < 1e-5


def test_every_gate_from_the_gather_on_has_a_gradient(vlm, references):
    batch = references.batch([0, 1])
    gather = 1
    forced = forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, gather)
    tokens = torch.full((2, vlm.spec.image_tokens), 0.5, requires_grad=True)
    layers = torch.full((2, vlm.spec.decoder.layers), 0.5, requires_grad=True)
    found = log_probs(vlm, forced, gather, Gates(tokens, layers))
    divergence(batch.log_probs, found, forced.counted).sum().backward()
    assert tokens.grad is not None
    assert layers.grad is not None
    assert (tokens.grad != 0).all()
    assert (layers.grad[:, gather:] != 0).all()
    assert (layers.grad[:, :gather] == 0).all()
    assert all(parameter.grad is None for parameter in vlm.model.parameters())


@pytest.mark.parametrize("frugal", [False, True])
def test_gates_and_their_gradient_are_those_of_a_mask(vlm, references, frugal):
    """Against stock layers with log g added to the attention of a token's key, and every layer run with a gradient."""
    batch, gather = references.batch([0, 1, 5]), 1
    forced = forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, gather)
    decoder, depth = vlm.model.model.language_model, vlm.spec.decoder.layers
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(3, vlm.spec.image_tokens, generator=generator), torch.rand(3, depth, generator=generator)
    drawn[1][0, 1:], drawn[1][2, 2] = 0.0, 0.0  # closed for one prompt and for several, open for others

    def by_mask(tokens, layers):
        hidden, rows = forced.hidden, forced.hidden.shape[1]
        columns = torch.zeros(3, rows).scatter(1, forced.prompt.image_index, tokens.log())
        seen = torch.ones(rows, rows, dtype=torch.bool).tril()
        mask = torch.where(seen, columns[:, None, None, :], -1e30)
        rotation = decoder.rotary_emb(hidden, forced.prompt.position_ids[0])
        for index in range(gather, depth):
            updated = decoder.layers[index](hidden, attention_mask=mask, position_embeddings=rotation)
            hidden = hidden + layers[:, index, None, None] * (updated - hidden)
        read = hidden.gather(1, forced.reads[..., None].expand(-1, -1, hidden.shape[2]))
        return vlm.model.lm_head(decoder.norm(read)).log_softmax(-1)

    def by_gates(tokens, layers):
        return log_probs(vlm, forced, gather, Gates(tokens, layers), frugal=frugal)

    results = []
    for function in (by_mask, by_gates):
        leaves = [part.clone().requires_grad_() for part in drawn]
        loss = divergence(batch.log_probs, function(*leaves), forced.counted).sum()
        loss.backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    assert decoder.config._attn_implementation == "sdpa", "put back"
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_divergence_counts_only_the_answer():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 3, 7, generator=generator).log_softmax(-1)
    pruned = torch.randn(2, 3, 7, generator=generator).log_softmax(-1)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    found = divergence(reference, pruned, counted)
    each = torch.nn.functional.kl_div(pruned, reference, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found, torch.stack([each[0, :2].mean(), each[1, 0]]))
    assert (found > 0).all()


class Album:
    """Three images, with three, one and two questions; ``order`` is that of the questions about an image."""

    name = "album"
    images = (0, 1, 0, 2, 2, 0)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Example(Noise()[self.image(index)].image, self.question(index))

    def image(self, index):
        return self.images[index]

    def question(self, index):
        return QUESTIONS[index % 3]


def flat(batch: Batch) -> list[torch.Tensor]:
    return [batch.embeddings, *batch.prompt, *batch.answers, batch.log_probs]


def test_a_reference_does_not_depend_on_what_was_asked_for_with_it(vlm):
    """To the last bit: with and without a cache, whatever is asked for first, alone or in company."""
    sets = [References(vlm, Album(), answer_tokens=5, cache_mib=mib) for mib in (0, 0, 64, 64)]
    sets[1].batch([5, 3])
    sets[3].batch([4, 2, 1])
    sets[3].batch([0])
    found = [flat(references.batch([2, 0, 2, 4])) for references in sets]
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)
    assert not sets[0]._cache
    assert set(sets[3]._cache) == {0, 1, 2}
    for alone, row in ((2, 0), (4, 3)):  # padding aside, a batch of one holds the same reference
        single = sets[0].batch([alone])
        length = int(single.answers.lengths[0])
        *_, lengths, log_probs = found[0]
        assert length == int(lengths[row])
        assert torch.equal(single.log_probs[0], log_probs[row, :length])


def test_references_have_what_the_model_gives_one_at_a_time(vlm):
    references = References(vlm, Album(), answer_tokens=5)
    batch, pruned = references.batch(range(6)), PrunedModel(vlm)
    assert batch.identity == tuple(f"album/{index}" for index in range(6))
    for row in range(6):
        prompt, length = batch.prompt.row(row), int(batch.answers.lengths[row])
        image_embeds, ids = image_of(vlm, batch, row), batch.answers.ids[row, :length]
        wanted = pruned.score(image_embeds, prompt, full_decision(vlm.spec, prompt), ids)[0].log_softmax(-1)
        torch.testing.assert_close(batch.log_probs[row, :length], wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(wanted.argmax(-1), ids)
        assert length == 5 or int(ids[-1]) in vlm.stop_ids


@pytest.mark.parametrize(
    "prompts",
    [
        [(7, 0, 9, 10), (7, 0, 11, 12, 13)],  # the image stands in what all begin with
        [(7, 9, 0, 10), (7, 11, 12, 0, 13)],  # behind it
        [(9, 0, 10), (8, 0, 10, 11)],  # nothing in common
        [(7, 0, 9), (7, 0, 9)],  # everything in common
        [(7, 0, 9, 8), (7, 0, 9)],  # one ends where the other goes on
    ],
)
def test_answers_are_those_of_each_prompt_alone(vlm, prompts):
    token, count = vlm.spec.image_token_id, vlm.spec.image_tokens
    ids = [[each or token for each in prompt] for prompt in prompts]
    batch, pruned = prompt_batch([sequential_layout(each, token, [count]) for each in ids]), PrunedModel(vlm)
    image_embeds = torch.randn(1, count, vlm.spec.decoder.hidden, generator=torch.Generator().manual_seed(0))
    common = read_common(pruned, image_embeds, batch)
    for row, spoken in enumerate(answer(pruned, image_embeds, batch, common, 5, vlm.stop_ids)):
        one = batch.row(row)
        alone = pruned.greedy(pruned.prefill(image_embeds, one, full_decision(vlm.spec, one)), 5, vlm.stop_ids)[0]
        assert spoken.ids.tolist() == alone.tolist()[: len(spoken.ids)]
        wanted = pruned.score(image_embeds, one, full_decision(vlm.spec, one), spoken.ids)[0].log_softmax(-1)
        torch.testing.assert_close(spoken.log_probs, wanted, rtol=1e-4, atol=1e-4)


def test_an_image_is_seen_once_and_remembered_up_to_the_limit(vlm, monkeypatch):
    references = References(vlm, Album(), answer_tokens=5)
    seen = []
    real = PrunedModel.image_embeds
    monkeypatch.setattr(PrunedModel, "image_embeds", lambda self, *given: seen.append(1) or real(self, *given))
    references.batch([0, 2, 5])
    assert len(seen) == 1
    references.batch([2, 0])
    assert len(seen) == 1
    references.batch([3, 1])
    assert len(seen) == 3
    size = references._cache[0].bytes
    assert size == sum(part.nbytes for one in references._cache[0].said.values() for part in one.spoken) + (
        references._cache[0].image_embeds.nbytes
    )
