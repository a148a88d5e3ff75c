"""Fidelity: what a version keeps of ``full`` on the same prompts.

``full`` answers a question greedily; its answer is the reference. A version reads the same answer, teacher
forced, in one decode call. Three figures per question:

- ``kl``: mean KL(full || version) over the next-token distributions along the answer, the first one (of
  the prefill) included, in nats;
- ``agrees``: whether the version's most likely token is the answer's at every step. That is the same as the
  version's own greedy answer being equal: up to the first difference both have read the same tokens;
- ``correct``: where the prompt has an answer, whether the version's greedy answer is that one. Only where
  it does not agree must it be decoded again.

What is measured is a contender: an engine, and where its scores come from: the bundle's own router, or a scorer, which
is how other pruners are measured on the same graphs. The image's features and the scores are computed once per
question and graph (or scorer), and shared. An entry of the reference's own graphs is not run: it is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from allrounder.calib.distributions import divergence
from allrounder.calib.questions import check_questions, layout_of
from allrounder.engines.sessions import Tensor
from allrounder.errors import CalibrationError
from allrounder.images.pixels import PreparedImages
from allrounder.layout import PromptLayout
from allrounder.manifest import Entry
from allrounder.progress import Progress, silent
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine, Scores
from allrounder.runtime.image import to_rgb

__all__ = [
    "FULL_REPORT",
    "MAX_ANSWER",
    "Contender",
    "Outcomes",
    "Scorer",
    "measure",
    "same_answer",
]

FULL_REPORT = 2000  # questions from which on fidelity is no longer quick
MAX_ANSWER = 32  # tokens of an answer that are compared; calibration questions have short answers


Scorer = Callable[[Prompt], Scores]  # token scores [N] and layer scores [M], float32; higher is kept


class Contender(NamedTuple):
    """What is measured: an engine, fed by ``scorer`` or, where that is None, by its bundle's own router."""

    engine: Engine
    scorer: Scorer | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What one contender did, question by question; all arrays are [n] over the same questions.

    ``correct`` and ``reference_correct`` are meaningful where ``labelled``. ``layer_use`` [n, M] says which layers were
    run. ``images`` says which image a question is about, so that questions about one image are resampled
    together; empty: each is about its own.
    """

    kl: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    reference_correct: NDArray[np.bool_]
    kinds: tuple[str, ...]
    layer_use: NDArray[np.bool_]
    images: tuple[str, ...] = ()

    def only(self, chosen: NDArray[np.bool_]) -> Outcomes:
        """Returns the outcomes of the ``chosen`` [n] questions."""
        return Outcomes(
            kl=self.kl[chosen],
            agrees=self.agrees[chosen],
            labelled=self.labelled[chosen],
            correct=self.correct[chosen],
            reference_correct=self.reference_correct[chosen],
            kinds=tuple(compress(self.kinds, chosen)),
            layer_use=self.layer_use[chosen],
            images=tuple(compress(self.images, chosen)),
        )


class _Question(NamedTuple):
    """A prompt, as far as all contenders share it."""

    prompt: Prompt
    images: PreparedImages
    image_embeds: dict[str, Tensor]  # by vision graph
    scores: dict[str | int | None, Scores | None]  # by router graph, or by a scorer's identity


class _Inputs(NamedTuple):
    """What a prefill reads."""

    layout: PromptLayout
    image_embeds: Tensor
    scores: Scores | None


class _Answer(NamedTuple):
    """A greedy answer, the logits [S, V] that chose each of its tokens, and the layers that were run."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]
    layers: tuple[int, ...]


class _Outcome(NamedTuple):
    kl: float
    agrees: bool
    correct: bool
    layers: tuple[int, ...]


def measure(
    reference: Engine, contenders: Sequence[Contender], prompts: Sequence[Prompt], progress: Progress = silent
) -> tuple[Outcomes, ...]:
    """Returns, for each of ``contenders``, its outcomes against ``reference`` on ``prompts``, in their order.

    Args:
        reference: An engine of ``full``, of the same precision as the others.
        contenders: What is measured; all are asked the same question before the next one is read, so that
            an image's features are held once and not for all images.
        prompts: Image questions; order them by image to share features between questions.
        progress: Called once per question.

    Raises:
        CalibrationError: No prompts, or an engine gives logits that are not finite.
        ImageInvalid: An image cannot be read.
        PromptsInvalid: A question exceeds the engines' limits.
    """
    if not prompts:
        raise CalibrationError("fidelity needs prompts", remedy="give prompts by --calib")
    check_questions(reference, prompts)
    rows: list[list[_Outcome]] = [[] for _ in contenders]
    truths: list[bool] = []
    seen: tuple[Path, PreparedImages, dict[str, Tensor]] | None = None
    for done, prompt in enumerate(prompts, start=1):
        if seen is None or seen[0] != prompt.image:
            seen = (prompt.image, reference.prepare([to_rgb(prompt.image)]), {})
        question = _Question(prompt, *seen[1:], {})
        answer = _greedy(reference, _inputs(Contender(reference), question))
        truths.append(_is_correct(reference, prompt, answer.ids))
        for row, contender in zip(rows, contenders, strict=True):
            if _runs_as(contender.engine.entry, reference.entry):
                row.append(_Outcome(0.0, agrees=True, correct=truths[-1], layers=answer.layers))
            else:
                row.append(_compare(contender, question, answer, truths[-1]))
        progress("fidelity", done, len(prompts))
    return tuple(_outcomes(row, truths, prompts, reference.model.layers) for row in rows)


def _outcomes(row: Sequence[_Outcome], truths: Sequence[bool], prompts: Sequence[Prompt], layers: int) -> Outcomes:
    layer_use = np.zeros((len(row), layers), np.bool_)
    for used, outcome in zip(layer_use, row, strict=True):
        used[list(outcome.layers)] = True
    return Outcomes(
        kl=np.array([outcome.kl for outcome in row]),
        agrees=np.array([outcome.agrees for outcome in row]),
        labelled=np.array([prompt.answer is not None for prompt in prompts]),
        correct=np.array([outcome.correct for outcome in row]),
        reference_correct=np.array(truths),
        kinds=tuple(prompt.kind for prompt in prompts),
        layer_use=layer_use,
        images=tuple(str(prompt.image) for prompt in prompts),
    )


def same_answer(given: str, wanted: str) -> bool:
    """Whether two answers are the same but for case, surrounding space and a final full stop."""
    return _plain(given) == _plain(wanted)


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()


def _inputs(contender: Contender, question: _Question) -> _Inputs:
    """Returns what the contender's prefill reads; features and scores are computed when they are first asked for."""
    engine, scorer = contender
    layout = layout_of(engine, question.prompt, question.images)
    graphs = engine.entry.graphs
    if graphs.vision not in question.image_embeds:
        question.image_embeds[graphs.vision] = engine.embed(question.images)
    image_embeds = question.image_embeds[graphs.vision]
    source = graphs.router if scorer is None else id(scorer)  # a scorer lives as long as the contenders do
    if source not in question.scores:
        question.scores[source] = engine.route(layout, image_embeds) if scorer is None else scorer(question.prompt)
    return _Inputs(layout, image_embeds, question.scores[source])


def _greedy(engine: Engine, inputs: _Inputs) -> _Answer:
    """Returns the engine's greedy answer, its stop token included."""
    stop_ids, limit = set(engine.model.stop_ids), min(MAX_ANSWER, engine.limits.new_tokens)
    state = engine.prefill(*inputs, free_slots=limit)
    rows = [_finite(engine, state.logits).reshape(-1)]
    ids = [int(rows[-1].argmax())]
    while ids[-1] not in stop_ids and len(ids) < limit:
        rows.append(_finite(engine, engine.decode(state, [ids[-1]])).reshape(-1))
        ids.append(int(rows[-1].argmax()))
    return _Answer(tuple(ids), np.stack(rows), state.kept_layers)


def _compare(contender: Contender, question: _Question, answer: _Answer, reference_correct: bool) -> _Outcome:
    engine, inputs = contender.engine, _inputs(contender, question)
    state = engine.prefill(*inputs, free_slots=len(answer.ids))
    logits = _finite(engine, state.logits)
    if len(answer.ids) > 1:
        rest = _finite(engine, engine.decode(state, list(answer.ids[:-1])))
        logits = np.concatenate([logits, rest.reshape(-1, logits.shape[-1])])
    agrees = tuple(int(token) for token in logits.argmax(axis=-1)) == answer.ids
    correct = reference_correct
    if not agrees and question.prompt.answer is not None:
        correct = _is_correct(engine, question.prompt, _greedy(engine, inputs).ids)
    return _Outcome(float(divergence(answer.logits, logits).mean()), agrees, correct, state.kept_layers)


def _runs_as(entry: Entry, other: Entry) -> bool:
    """Whether two entries give the same answers: entries of one graph may keep different numbers of image tokens."""
    return (entry.graphs, entry.pruning.keep) == (other.graphs, other.pruning.keep)


def _is_correct(engine: Engine, prompt: Prompt, ids: tuple[int, ...]) -> bool:
    return prompt.answer is not None and same_answer(engine.text(ids), prompt.answer)


def _finite(engine: Engine, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise CalibrationError(
            "an engine gives logits that are not finite", where=engine.entry.label, remedy="build it with fp32"
        )
    return np.asarray(logits, dtype=np.float32)
