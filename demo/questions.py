"""Questions about a scene, in five classes, each with exactly one right answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from allrounder.demo.scenes import COLOURS, KINDS, PLACES, Scene, Shape, scene_generator

CLASSES = ("what", "colour", "where", "count", "read")
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
PLURALS = ("circles", "squares", "triangles", "crosses", "rings", "diamonds")

READ_PHRASES = ("what number is written?", "read the digits.", "read the number.", "which digits are in the row?")
WHAT_PLACE = ("what is at the {}?", "what is in the {}?", "which object is at the {}?")
WHAT_COLOUR = ("what is the {} object?", "which shape is {}?", "what is {}?")
COLOUR_KIND = ("what colour is the {}?", "which colour is the {}?", "what color is the {}?")
COLOUR_PLACE = ("what colour is the object at the {}?", "what color is the object in the {}?")
WHERE = ("where is the {}?", "in which place is the {}?")
COUNT = ("how many {} are there?", "how many {} do you see?")


@dataclass(frozen=True)
class Question:
    """One question with its only right answer; ``kind`` is one of ``CLASSES``."""

    kind: str
    text: str
    answer: str


def all_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every question that ``scene`` answers without ambiguity, one phrasing each, as phrased by ``rng``."""
    kinds = Counter(shape.kind for shape in scene.shapes)
    colours = Counter(shape.colour for shape in scene.shapes)
    found: list[Question] = []
    cells = Counter(shape.cell for shape in scene.shapes) + Counter({digit.cell for digit in scene.digits})
    for shape in scene.shapes:
        alone = cells[shape.cell] == 1, kinds[shape.kind] == 1, colours[shape.colour] == 1
        found += _shape_questions(shape, *alone, rng)
    found += _count_questions(scene, kinds, colours, rng)
    digits = " ".join(str(digit.value) for digit in scene.digits) + "."
    found += [Question("read", text, digits) for text in READ_PHRASES]
    return found


def sample_questions(scene: Scene, count: int, *, vary: bool = True) -> list[Question]:
    """``count`` questions about ``scene``, classes as even as they can be, in random order, from the scene's seed.

    With ``vary`` a part of them is written carelessly: a capital, a blank before the question mark, or no mark.
    """
    rng = scene_generator(scene.split, scene.seed, 2)
    pools: dict[str, list[Question]] = {kind: [] for kind in CLASSES}
    for question in all_questions(scene, rng):
        pools[question.kind].append(question)
    for pool in pools.values():
        rng.shuffle(pool)  # type: ignore[arg-type]
    order: list[Question] = []
    while len(order) < count and any(pools.values()):
        names = [kind for kind in CLASSES if pools[kind]]
        order += [pools[names[i]].pop() for i in rng.permutation(len(names))]
    chosen = order[:count]
    return [careless(question, rng) for question in chosen] if vary else chosen


def careless(question: Question, rng: np.random.Generator) -> Question:
    """The same question as a hasty person may write it."""
    text, chance = question.text, float(rng.random())
    if chance < 0.10 and text.endswith("?"):
        text = text[:-1] + " ?"
    elif chance < 0.15:
        text = text[:-1]
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    return Question(question.kind, text, question.answer)


def _shape_questions(
    shape: Shape, cell_alone: bool, kind_alone: bool, colour_alone: bool, rng: np.random.Generator
) -> list[Question]:
    kind, colour, place = KINDS[shape.kind], COLOURS[shape.colour], PLACES[shape.cell]
    what, is_colour, at = f"a {kind}.", f"it is {colour}.", f"at the {place}."
    found = []
    if cell_alone:
        found.append(Question("what", _phrase(WHAT_PLACE, rng).format(place), what))
        found.append(Question("colour", _phrase(COLOUR_PLACE, rng).format(place), is_colour))
    found.append(Question("where", _phrase(WHERE, rng).format(f"{colour} {kind}"), at))
    if colour_alone:
        found.append(Question("what", _phrase(WHAT_COLOUR, rng).format(colour), what))
        found.append(Question("where", _phrase(WHERE, rng).format(f"{colour} object"), at))
    if kind_alone:
        found.append(Question("colour", _phrase(COLOUR_KIND, rng).format(kind), is_colour))
        found.append(Question("where", _phrase(WHERE, rng).format(kind), at))
    return found


def _count_questions(
    scene: Scene, kinds: Counter[int], colours: Counter[int], rng: np.random.Generator
) -> list[Question]:
    """How many shapes in all, of the most frequent kinds and colours, and of one random kind and colour."""
    asked_kinds = {kind for kind, _ in kinds.most_common(2)} | {int(rng.integers(len(KINDS)))}
    asked_colours = {colour for colour, _ in colours.most_common(2)} | {int(rng.integers(len(COLOURS)))}
    found = [_count(len(scene.shapes), "shapes", rng)]
    found += [_count(kinds[kind], PLURALS[kind], rng) for kind in sorted(asked_kinds)]
    found += [_count(colours[colour], f"{COLOURS[colour]} shapes", rng) for colour in sorted(asked_colours)]
    return found


def _count(number: int, name: str, rng: np.random.Generator) -> Question:
    verb = "is" if number == 1 else "are"
    return Question("count", _phrase(COUNT, rng).format(name), f"there {verb} {NUMBERS[number]}.")


def _phrase(phrases: tuple[str, ...], rng: np.random.Generator) -> str:
    return phrases[int(rng.integers(len(phrases)))]
