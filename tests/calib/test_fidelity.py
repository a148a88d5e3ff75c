"""Fidelity against `full`, on an engine made of a table: the next token depends on the last one and the image."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from image_plans import fixed_plan
from PIL import Image

from allrounder.calib.fidelity import Contender, joined, measure, same_answer
from allrounder.calib.figures import summarize
from allrounder.calib.questions import quick_sample
from allrounder.errors import CalibrationError
from allrounder.images.planning import PlannedImage
from allrounder.prompts import Prompt
from allrounder.router.pruners.downscaling import downscale
from allrounder.versions import kept_tokens

VOCABULARY, STOP, LIMIT, LAYERS, TOKENS = 12, 0, 6, 4, 16
WORDS = ["", *"abcdefghijk"]


class Layout(NamedTuple):
    """What the table is asked: its first row, and how many image tokens there are."""

    first: int
    image_tokens: int
    next_position: int = 30


class TableEngine:
    """An engine whose logits are a row of a random table, chosen by the last token read."""

    def __init__(self, seed, *, vision="vision", router="router", noise=0.0, keep="1"):
        generator = np.random.default_rng(seed)
        self.table = np.random.default_rng(3).normal(size=(3, VOCABULARY, VOCABULARY)).astype(np.float32) * 2
        self.table += noise * generator.normal(size=self.table.shape).astype(np.float32)
        graphs = SimpleNamespace(vision=vision, router=router, decoder=seed)
        pruning = SimpleNamespace(keep=keep, keep_rule=Fraction(keep))
        self.entry = SimpleNamespace(graphs=graphs, label=f"table {seed}", pruning=pruning)
        self.model = SimpleNamespace(stop_ids=(STOP,), layers=LAYERS, images=fixed_plan(TOKENS), max_positions=99)
        self.limits = SimpleNamespace(new_tokens=LIMIT, text_tokens=9, image_tokens=TOKENS)
        self.seen, self.routed, self.calls, self.fed = [], 0, [], []

    def layout(self, messages):
        return self.layout_of(messages, [PlannedImage((), (), (TOKENS,))])

    def first(self, question):
        return sum(map(ord, question)) % VOCABULARY

    def ids(self, messages):
        return messages

    def layout_of(self, messages, planned):
        (image, text) = messages[0]["content"]
        assert image["type"] == "image"
        return Layout(self.first(text["text"]), planned[0].tokens)

    def embed(self, images):
        self.seen.append(int(images.tiles[0, 6, 6, 0]))
        rows = np.full((images.planned[0].tokens, 1), self.seen[-1])
        return SimpleNamespace(numpy=lambda: rows)

    def route(self, layout, image_embeds):
        self.routed += 1
        return SimpleNamespace(layer_scores=np.zeros(LAYERS, np.float32))

    def prefill(self, layout, image_embeds, scores, *, keep, free_slots):
        rows = image_embeds if isinstance(image_embeds, np.ndarray) else image_embeds.numpy()
        assert len(rows) == layout.image_tokens
        self.calls.append("prefill")
        self.fed.append(scores)
        image = int(rows[0, 0])
        return SimpleNamespace(
            logits=self.table[image, layout.first][None],
            image=image,
            free_slots=free_slots,
            kept_layers=tuple(range(layout.first % LAYERS + 1)),
            keep_indices=tuple(range(kept_tokens(keep, len(rows)))),
        )

    def decode(self, state, ids):
        self.calls.append(len(ids))
        state.free_slots -= len(ids)
        assert state.free_slots >= 0
        return self.table[state.image, list(ids)][None]

    def text(self, ids):
        return "".join(WORDS[token] for token in ids)

    def answer(self, image_embeds, question):
        ids = [int(self.table[image_embeds, self.first(question)].argmax())]
        while ids[-1] != STOP and len(ids) < LIMIT:
            ids.append(int(self.table[image_embeds, ids[-1]].argmax()))
        return tuple(ids)


@pytest.fixture
def prompts(tmp_path):
    """36 questions over 3 images; two thirds have an answer, half of these the right one."""
    made = []
    reference = TableEngine(0)
    for image in range(3):
        path = tmp_path / f"{image}.png"
        Image.fromarray(np.full((2, 2, 3), image, np.uint8)).save(path)
        for number in range(12):
            question = "?" * (number + 1)
            right = reference.text(reference.answer(image, question))
            answer = (None, right.upper() + ".", "never this")[number % 3]
            made.append(Prompt(path, question, answer, f"kind {number % 2}"))
    return made


def measured(reference, engines, prompts):
    return measure(reference, [Contender(engine) for engine in engines], prompts)


def summary(outcomes):
    return summarize(outcomes, dataset="table:0")


def test_full_against_itself_loses_nothing(prompts):
    same = TableEngine(9)  # other graphs, the same numbers: it is really run
    (outcomes,) = measured(TableEngine(0), [same], prompts)
    assert same.calls.count("prefill") == len(prompts)
    fidelity = summary(outcomes)
    assert fidelity.kl.mean == fidelity.kl.high == 0.0
    assert fidelity.agreement.mean == fidelity.agreement.low == 1.0
    assert fidelity.retention is not None
    assert fidelity.retention.mean == fidelity.retention.low == 1.0
    assert (fidelity.questions, fidelity.dataset, fidelity.quick) == (36, "table:0", True)
    assert outcomes.reference_correct.sum() == 12


def test_agreement_is_equality_of_greedy_answers(prompts):
    agreements = []
    for seed in range(1, 9):
        reference, other = TableEngine(0), TableEngine(seed, noise=0.6)
        (outcomes,) = measured(reference, [other], prompts)
        for prompt, agrees, correct in zip(prompts, outcomes.agrees, outcomes.correct, strict=True):
            image_embeds = int(prompt.image.stem)
            own = other.answer(image_embeds, prompt.question)
            assert agrees == (own == reference.answer(image_embeds, prompt.question))
            if prompt.answer is not None:
                assert correct == same_answer(other.text(own), prompt.answer)
            agreements.append(agrees)
    assert 0.1 < np.mean(agreements) < 0.9


def test_divergence_is_the_mean_over_the_answers_steps(prompts):
    reference, other = TableEngine(0), TableEngine(1, noise=0.5)
    (outcomes,) = measured(reference, [other], prompts[:1])
    ids = reference.answer(0, "?")
    read = [reference.first("?"), *ids[:-1]]

    def log_probabilities(engine):
        logits = engine.table[0, read].astype(np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    of, against = log_probabilities(reference), log_probabilities(other)
    assert outcomes.kl[0] == pytest.approx((np.exp(of) * (of - against)).sum(-1).mean())
    assert outcomes.kl[0] > 0


def test_features_and_scores_are_computed_once(prompts):
    reference = TableEngine(0, router=None)
    engines = [TableEngine(1, noise=0.3), TableEngine(2, noise=0.3), TableEngine(3, vision="other", noise=0.3)]
    measured(reference, engines, prompts)
    assert reference.seen == [0, 1, 2]
    assert [engine.seen for engine in engines] == [[], [], [0, 1, 2]]
    assert [engine.routed for engine in engines] == [36, 0, 0]


def test_a_scorer_takes_the_routers_place_and_is_asked_once_per_question(prompts):
    asked = []

    def scorer(seen):
        asked.append(seen.prompt)
        assert (seen.image_embeds.shape, seen.layout.image_tokens) == ((TOKENS, 1), TOKENS)
        return ("scores", seen.prompt.question)

    scored, routed = TableEngine(1, noise=0.5), TableEngine(2, noise=0.5)
    contenders = [Contender(scored, scorer), Contender(routed), Contender(TableEngine(3), scorer)]
    outcomes = measure(TableEngine(0, router=None), contenders, prompts)
    assert asked == prompts
    assert scored.routed == 0
    differing = ~outcomes[0].agrees & outcomes[0].labelled
    assert differing.any()
    wanted = [p for p, twice in zip(prompts, differing, strict=True) for _ in range(1 + twice)]
    assert scored.fed == [("scores", prompt.question) for prompt in wanted]
    assert routed.routed == len(prompts)
    assert all(hasattr(scores, "layer_scores") for scores in routed.fed)


def test_a_contender_is_shown_what_it_asks_for_and_what_is_kept_is_counted(prompts):
    """Downscaling: other image tokens, scored apart from those of the whole image, no more than the version keeps."""
    asked = []

    def scorer(seen):
        asked.append(len(seen.image_embeds))

    quarter, smaller = (TableEngine(seed, noise=0.5, keep="1/4") for seed in (1, 2))
    shown = [Contender(quarter, scorer), Contender(smaller, scorer, downscale), Contender(quarter, scorer)]
    outcomes = measure(TableEngine(0), shown, prompts)
    assert asked == [TOKENS, 4] * len(prompts)
    for each in outcomes:
        assert (each.kept_tokens <= 4).all()
        assert (each.image_tokens == TOKENS).all()
        assert (each.tiles == 1).all()
    assert (outcomes[1].kept_tokens == 4).all()
    (whole,) = measure(TableEngine(0), [Contender(TableEngine(0))], prompts)
    assert (whole.kept_tokens == TOKENS).all()


def test_full_that_is_shown_less_is_not_the_reference(prompts):
    less = TableEngine(0)
    measure(TableEngine(0), [Contender(less, None, lambda plan, sizes, keep: downscale(plan, sizes, 4))], prompts)
    assert less.calls.count("prefill") == len(prompts)


def test_outcomes_of_several_sets_are_those_of_one(prompts):
    def run(some):
        return measured(TableEngine(0), [TableEngine(1, noise=0.5)], some)[0]

    one, both = run(prompts), joined([run(prompts[:10]), run(prompts[10:])])
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(both, field.name)), field.name


def test_which_layers_were_run_is_told(prompts):
    other = TableEngine(1, noise=0.5)
    (reference, outcomes) = measured(TableEngine(0), [TableEngine(0), other], prompts)
    assert outcomes.layer_use.shape == (len(prompts), LAYERS)
    for prompt, used in zip(prompts, outcomes.layer_use, strict=True):
        assert used.tolist() == [layer <= other.first(prompt.question) % LAYERS for layer in range(LAYERS)]
    assert 0 < outcomes.layer_use.mean() < 1
    assert (reference.layer_use == outcomes.layer_use).all()  # not run again: what the reference itself ran


def test_some_of_the_questions(prompts):
    (outcomes,) = measured(TableEngine(0), [TableEngine(1, noise=0.5)], prompts)
    chosen = np.arange(len(prompts)) % 5 == 2
    (wanted,) = measured(TableEngine(0), [TableEngine(1, noise=0.5)], prompts[2::5])
    some = outcomes.only(chosen)
    for name in ("kl", "agrees", "labelled", "reference_correct", "layer_use", "tiles", "kept_tokens"):
        assert np.array_equal(getattr(some, name), getattr(wanted, name))
    assert (some.kinds, some.images) == (wanted.kinds, wanted.images)
    assert len(set(outcomes.images)) == 3


def test_a_version_reads_the_answer_in_one_call_and_decodes_again_only_where_it_differs(prompts):
    same, other = TableEngine(9), TableEngine(1, noise=0.5)
    outcomes = measured(TableEngine(0), [same, other], prompts)
    assert same.calls.count("prefill") == len(prompts)
    differing = (~outcomes[1].agrees & outcomes[1].labelled).sum()
    assert differing > 0
    assert other.calls.count("prefill") == len(prompts) + differing


def test_without_answers_there_is_no_retention(prompts):
    (outcomes,) = measured(TableEngine(0), [TableEngine(1, noise=1.0)], [p._replace(answer=None) for p in prompts])
    assert summary(outcomes).retention is None
    assert summary(outcomes).agreement.mean < 1


def test_an_entry_of_the_references_graphs_is_the_reference(prompts):
    same = TableEngine(0)
    (outcomes,) = measured(TableEngine(0), [same], prompts)
    assert same.calls == []
    assert summary(outcomes).agreement.mean == 1.0
    assert (outcomes.correct == outcomes.reference_correct).all()


def test_an_entry_of_the_same_graphs_that_keeps_less_is_run(prompts):
    less = TableEngine(0, keep="1/4")
    measured(TableEngine(0), [less], prompts)
    assert less.calls.count("prefill") == len(prompts)


def test_progress_is_told_once_per_question(prompts):
    told = []
    measure(TableEngine(0), [], prompts, lambda *step: told.append(step))
    assert told == [("fidelity", number, 36) for number in range(1, 37)]


def test_no_prompts_and_broken_engines_are_refused(prompts):
    with pytest.raises(CalibrationError, match="--calib"):
        measured(TableEngine(0), [TableEngine(1)], [])
    broken = TableEngine(1)
    broken.table[:, :, 3] = np.nan
    with pytest.raises(CalibrationError, match="table 1"):
        measured(TableEngine(0), [broken], prompts)


def test_a_quick_sample_is_fixed_ordered_and_without_repeats(prompts):
    sample = quick_sample(prompts, 10)
    assert sample == quick_sample(prompts, 10)
    assert len(set(sample)) == 10
    assert [prompts.index(prompt) for prompt in sample] == sorted(prompts.index(prompt) for prompt in sample)
    assert quick_sample(prompts, 100) == tuple(prompts)


def test_answers_are_compared_without_case_space_and_full_stop():
    assert same_answer(" It is  red.\n", "it is red")
    assert not same_answer("red", "reddish")
    assert not same_answer("", "red")
