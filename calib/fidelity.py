"""Fidelity: what a version keeps of ``full`` on the same prompts.

``full`` answers a question greedily; its answer is the reference. A version reads the same answer, teacher
forced, in one decode call. Three figures per question:

- ``kl``: mean KL(full || version) over the next-token distributions along the answer, the first one (of
  the prefill) included, in nats;
- ``agrees``: whether the version's most likely token is the answer's at every step. That is the same as the
  version's own greedy answer being equal: up to the first difference both have read the same tokens;
- ``correct``: where the prompt has an answer, whether the version's greedy answer is that one. Only where
  it does not agree must it be decoded again.

What is measured is a contender: an engine, what it is shown of the image, and where its scores come from: the bundle's
own router, or a scorer, which is how other pruners are measured on the same graphs. Image tokens are computed once per
way to show an image, scores once per question and graph (or scorer), and shared. An entry of the reference's own graphs
is not run: it is the reference. How many image tokens were really kept is counted, question by question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import chain, compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from allrounder.calib.distributions import divergence
from allrounder.calib.questions import MAX_ANSWER, check_questions, layout_of
from allrounder.engines.sessions import Tensor
from allrounder.errors import CalibrationError
from allrounder.images.shown import Show, Shown, prepare_shown, whole
from allrounder.layout import PromptLayout
from allrounder.manifest import Entry
from allrounder.progress import Progress, silent
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine, Prefilled, Scores
from allrounder.runtime.image import to_rgb
from allrounder.versions import EVERYTHING, Keep

__all__ = [
    "FULL_REPORT",
    "MAX_ANSWER",
    "Contender",
    "Outcomes",
    "Scorer",
    "Seen",
    "joined",
    "measure",
    "same_answer",
]

FULL_REPORT = 2000  # questions from which on fidelity is no longer quick


class Seen(NamedTuple):
    """A question as a contender is asked it: its image as it is shown, its layout and its image tokens [N, H]."""

    prompt: Prompt
    shown: Shown  # alike for all budgets that show the same
    layout: PromptLayout
    image_embeds: np.ndarray  # to be read at once, or copied


Scorer = Callable[[Seen], Scores]  # token scores [N] and layer scores [M], float32; higher is kept


class Contender(NamedTuple):
    """What is measured.

    An engine, fed by ``scorer`` or, where that is None, by its bundle's own router; ``show`` says what the tower sees
    of an image at the engine's keep rule.
    """

    engine: Engine
    scorer: Scorer | None = None
    show: Show = whole


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What one contender did, question by question; all arrays are [n] over the same questions.

    ``correct`` and ``reference_correct`` are meaningful where ``labelled``. ``layer_use`` [n, M] says which layers were
    run. ``tiles`` and ``image_tokens`` are of the question's image as `full` sees it; ``kept_tokens`` is how many image
    tokens the layers from K on held. ``images`` says which image a question is about, so that questions about one image
    are resampled together; empty: each is about its own.
    """

    kl: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    reference_correct: NDArray[np.bool_]
    kinds: tuple[str, ...]
    layer_use: NDArray[np.bool_]
    tiles: NDArray[np.int64]
    image_tokens: NDArray[np.int64]
    kept_tokens: NDArray[np.int64]
    images: tuple[str, ...] = ()

    def only(self, chosen: NDArray[np.bool_]) -> Outcomes:
        """Returns the outcomes of the ``chosen`` [n] questions."""
        return Outcomes(**{name: _chosen(getattr(self, name), chosen) for name in _FIELDS})


_FIELDS = tuple(field.name for field in fields(Outcomes))


def _chosen(values: Any, chosen: NDArray[np.bool_]) -> Any:
    return tuple(compress(values, chosen)) if isinstance(values, tuple) else values[chosen]


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Returns the outcomes of one contender on several sets of questions, as on one."""
    found: dict[str, Any] = {}
    for name in _FIELDS:
        column = [getattr(part, name) for part in parts]
        found[name] = tuple(chain(*column)) if isinstance(column[0], tuple) else np.concatenate(column)
    return Outcomes(**found)


class _Image(NamedTuple):
    """An image, and its tokens [N, H] by the way in which it was shown and by vision graph."""

    rgb: np.ndarray
    image_embeds: dict[tuple[Shown, str], Tensor | np.ndarray]


class _Question(NamedTuple):
    """A prompt, as far as all contenders share it; scores by how its image is shown, and by router graph or scorer."""

    prompt: Prompt
    image: _Image
    scores: dict[tuple[Shown, str | int | None], Scores | None]


class _Inputs(NamedTuple):
    """What a prefill reads."""

    layout: PromptLayout
    image_embeds: Tensor | np.ndarray
    scores: Scores | None
    keep: Keep


class _Answer(NamedTuple):
    """A greedy answer, the logits [S, V] that chose each of its tokens, the layers run and the image tokens kept."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]
    layers: tuple[int, ...]
    kept: int


class _Outcome(NamedTuple):
    kl: float
    agrees: bool
    correct: bool
    layers: tuple[int, ...]
    kept: int


class _Truth(NamedTuple):
    """What `full` made of a question: whether it was right, and of its image."""

    correct: bool
    tiles: int
    image_tokens: int


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
    truths: list[_Truth] = []
    seen: tuple[Path, _Image] | None = None
    for done, prompt in enumerate(prompts, start=1):
        if seen is None or seen[0] != prompt.image:
            seen = (prompt.image, _Image(to_rgb(prompt.image), {}))
        question = _Question(prompt, seen[1], {})
        inputs = _inputs(Contender(reference), question)
        answer = _greedy(reference, inputs)
        correct = _is_correct(reference, prompt, answer.ids)
        tiles = sum(image.planned.tiles for image in _shown(Contender(reference), question).images)
        truths.append(_Truth(correct, tiles, inputs.layout.image_tokens))
        for row, contender in zip(rows, contenders, strict=True):
            if contender.show is whole and _runs_as(contender.engine.entry, reference.entry):
                row.append(_Outcome(0.0, agrees=True, correct=correct, layers=answer.layers, kept=answer.kept))
            else:
                row.append(_compare(contender, question, answer, correct))
        progress("fidelity", done, len(prompts))
    return tuple(_outcomes(row, truths, prompts, reference.model.layers) for row in rows)


def _outcomes(row: Sequence[_Outcome], truths: Sequence[_Truth], prompts: Sequence[Prompt], layers: int) -> Outcomes:
    layer_use = np.zeros((len(row), layers), np.bool_)
    for used, outcome in zip(layer_use, row, strict=True):
        used[list(outcome.layers)] = True
    return Outcomes(
        kl=np.array([outcome.kl for outcome in row]),
        agrees=np.array([outcome.agrees for outcome in row]),
        labelled=np.array([prompt.answer is not None for prompt in prompts]),
        correct=np.array([outcome.correct for outcome in row]),
        reference_correct=np.array([truth.correct for truth in truths]),
        kinds=tuple(prompt.kind for prompt in prompts),
        layer_use=layer_use,
        tiles=np.array([truth.tiles for truth in truths]),
        image_tokens=np.array([truth.image_tokens for truth in truths]),
        kept_tokens=np.array([outcome.kept for outcome in row]),
        images=tuple(str(prompt.image) for prompt in prompts),
    )


def same_answer(given: str, wanted: str) -> bool:
    """Whether two answers are the same but for case, surrounding space and a final full stop."""
    return _plain(given) == _plain(wanted)


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()


def _shown(contender: Contender, question: _Question) -> Shown:
    height, width = question.image.rgb.shape[:2]
    engine = contender.engine
    return contender.show(engine.model.images, [(height, width)], engine.entry.pruning.keep_rule)


def _inputs(contender: Contender, question: _Question) -> _Inputs:
    """Returns what the contender's prefill reads; image tokens and scores are computed where they are not there yet."""
    engine, scorer, _ = contender
    shown, image, graphs = _shown(contender, question), question.image, engine.entry.graphs
    layout = layout_of(engine, question.prompt, [each.placed for each in shown.images])
    alike = shown._replace(keep=EVERYTHING)  # whatever is dropped later, tower and router see the same
    if (alike, graphs.vision) not in image.image_embeds:
        found = engine.embed(prepare_shown(engine.model.images, shown, [image.rgb]))
        image.image_embeds[alike, graphs.vision] = shown.of(found.numpy()) if shown.partly else found
    image_embeds = image.image_embeds[alike, graphs.vision]
    source = (alike, graphs.router if scorer is None else id(scorer))  # a scorer lives as long as the contenders do
    if source not in question.scores:
        if scorer is None:
            question.scores[source] = engine.route(layout, image_embeds)
        else:
            rows = image_embeds if isinstance(image_embeds, np.ndarray) else image_embeds.numpy()
            question.scores[source] = scorer(Seen(question.prompt, alike, layout, rows))
    return _Inputs(layout, image_embeds, question.scores[source], shown.keep)


def _greedy(engine: Engine, inputs: _Inputs) -> _Answer:
    """Returns the engine's greedy answer, its stop token included."""
    stop_ids, limit = set(engine.model.stop_ids), min(MAX_ANSWER, engine.limits.new_tokens)
    state = _prefill(engine, inputs, limit)
    rows = [_finite(engine, state.logits).reshape(-1)]
    ids = [int(rows[-1].argmax())]
    while ids[-1] not in stop_ids and len(ids) < limit:
        rows.append(_finite(engine, engine.decode(state, [ids[-1]])).reshape(-1))
        ids.append(int(rows[-1].argmax()))
    return _Answer(tuple(ids), np.stack(rows), state.kept_layers, len(state.keep_indices))


def _prefill(engine: Engine, inputs: _Inputs, free_slots: int) -> Prefilled:
    return engine.prefill(inputs.layout, inputs.image_embeds, inputs.scores, keep=inputs.keep, free_slots=free_slots)


def _compare(contender: Contender, question: _Question, answer: _Answer, reference_correct: bool) -> _Outcome:
    engine, inputs = contender.engine, _inputs(contender, question)
    state = _prefill(engine, inputs, len(answer.ids))
    logits = _finite(engine, state.logits)
    if len(answer.ids) > 1:
        rest = _finite(engine, engine.decode(state, list(answer.ids[:-1])))
        logits = np.concatenate([logits, rest.reshape(-1, logits.shape[-1])])
    agrees = tuple(int(token) for token in logits.argmax(axis=-1)) == answer.ids
    correct = reference_correct
    if not agrees and question.prompt.answer is not None:
        correct = _is_correct(engine, question.prompt, _greedy(engine, inputs).ids)
    kl = float(divergence(answer.logits, logits).mean())
    return _Outcome(kl, agrees, correct, state.kept_layers, len(state.keep_indices))


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
