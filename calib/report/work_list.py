"""What a fidelity report is measured on: the engines, the pruners, the questions, and how the work is cut.

Pure functions of a model's size and a list of questions; no engines, no files.

Three families of budgets: the versions themselves (dynamic and static), their tokens alone and their layers alone (each
half of the router by itself), and 11 % of the tokens with all layers, where token pruners are usually compared. The
router is asked every question; the other pruners the first ones (the grid), where the router's own outcomes on the same
questions are beside theirs. Where every image has N tokens, what is kept of them alone is a count; where N differs from
image to image it is a share, as in the versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.errors import CalibrationError
from allrounder.fidelity_report import DOWNSCALE, ROUTER
from allrounder.prompts import Prompt
from allrounder.pruning import LayerPolicy, PruningConfig, custom_version, pruning_config
from allrounder.versions import EVERYTHING, FULL, VERSIONS, Keep, keep_of, resolve

__all__ = [
    "NO_LAYERS",
    "Chunk",
    "ReportRequest",
    "Subject",
    "WorkList",
    "aggressive",
    "chunks",
    "digest_of_work",
    "grid_size",
    "wanted_engines",
    "work_list",
]

NO_LAYERS = "none"  # the layer pruner of a budget that keeps every layer
CHUNK = 10  # questions that are computed and written together
_POLICIES: tuple[LayerPolicy, ...] = ("dynamic", "static")
_AGGRESSIVE = 11  # percent of the image tokens
_TOKENS = (DOWNSCALE, "random", "stride", "fastv", "dart", "divprune", "cdpruner")  # of `allrounder.router.pruners`
# At the versions. The last three take one half from the router and the other from elsewhere.
_PAIRS = (
    "none+none",
    "random+random",
    *(f"{tokens}+shortgpt" for tokens in _TOKENS),
    f"{ROUTER}+shortgpt",
    f"random+{ROUTER}",
    f"{DOWNSCALE}+{ROUTER}",
)


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What is to be measured; every default is filled in."""

    model: Path
    router: Path
    calib: Path | None  # None: the demo's test split is drawn
    ranking: Path  # prompts that rank the layers, never the questions
    questions: int
    grid_questions: int
    prune_layer: int
    jobs: int
    work: Path
    out: Path
    page: Path | None
    page_only: bool
    timing: bool


class Subject(msgspec.Struct, frozen=True):
    """A row of the table to be: a pruner at a budget, and how many of the questions it is asked (the first ones)."""

    pruner: str
    version: str
    layer_policy: LayerPolicy
    questions: int

    @property
    def key(self) -> tuple[str, LayerPolicy]:
        """The engine it runs through."""
        return (self.version, self.layer_policy)

    @property
    def downscales(self) -> bool:
        """Whether it shows smaller images."""
        return self.pruner.partition("+")[0] == DOWNSCALE


class WorkList(NamedTuple):
    """All subjects; the first is `full`, which is the reference, and is not run again."""

    subjects: tuple[Subject, ...]
    questions: int
    grid: int

    def of(self, first: int) -> tuple[int, ...]:
        """Returns the places of the subjects that are asked question ``first``."""
        return tuple(place for place, subject in enumerate(self.subjects) if first < subject.questions)


class Chunk(NamedTuple):
    """Questions ``first`` to ``end`` - 1, of whole images; all of them in the grid, or none."""

    first: int
    end: int


def aggressive(tokens: int | None) -> Keep:
    """Returns 11 % of ``tokens``, rounded half up, at least 1; of None, 11 % of however many there are."""
    if tokens is None:
        return Fraction(_AGGRESSIVE, 100)
    return max(1, (2 * _AGGRESSIVE * tokens + 100) // 200)


def wanted_engines(tokens: int | None, layers: int, prune_layer: int) -> tuple[PruningConfig, ...]:
    """Returns the engines of a model of M ``layers``, `full` first; static layers are to be ranked.

    Args:
        tokens: N of every image; None: it differs from image to image.
        layers: M.
        prune_layer: K.

    Raises:
        InvalidBudget: The model cannot be pruned so at this layer.
    """
    names = [name for name in VERSIONS if name != FULL]
    alone: list[Keep] = [
        keep_of(name) if tokens is None else resolve(name, tokens=tokens, layers=layers).tokens for name in names
    ]
    tokens_alone = [custom_version(keep, layers) for keep in (*alone, aggressive(tokens))]
    layers_alone = [custom_version(EVERYTHING, resolve(name, tokens=1, layers=layers).layers) for name in names]
    found = [
        pruning_config(name, layers=layers, prune_layer=prune_layer, layer_policy=policy)
        for group in (names, tokens_alone, layers_alone)
        for policy in _POLICIES
        for name in group
    ]
    pruned = [each for each in dict.fromkeys(found) if each.layers < layers or _drops(each, tokens)]
    full = pruning_config(FULL, layers=layers, prune_layer=0, layer_policy="static")
    return (full, *pruned)


def _drops(pruning: PruningConfig, tokens: int | None) -> bool:
    return pruning.prunes if tokens is None else pruning.budget(tokens).tokens < tokens


def work_list(engines: Sequence[PruningConfig], few: str, questions: int, grid: int, *, downscales: bool) -> WorkList:
    """Returns what is measured.

    Args:
        engines: Of `wanted_engines`.
        few: The version that keeps few image tokens and all layers.
        questions: How many the router is asked.
        grid: How many of them, the first, the other pruners are asked.
        downscales: Whether the model can be shown an image in as few tokens as any version keeps.
    """
    subjects = [Subject(ROUTER, each.version, each.layer_policy, questions) for each in engines]
    if grid:
        for version, _, policy in (engine.key for engine in engines):
            if version in VERSIONS and policy == "dynamic":
                subjects += [Subject(pair, version, policy, grid) for pair in _PAIRS]
            elif version == few:
                subjects += [Subject(f"{name}+{NO_LAYERS}", version, policy, grid) for name in ("none", *_TOKENS)]
    if not downscales:
        subjects = [subject for subject in subjects if not subject.downscales]
    return WorkList(tuple(subjects), questions, grid)


def grid_size(prompts: Sequence[Prompt], wanted: int) -> int:
    """Returns how many of the first ``prompts`` are at most ``wanted`` questions of whole images.

    Raises:
        CalibrationError: Not even the first image is within.
    """
    ends = [chunk.end for chunk in _images(prompts) if chunk.end <= wanted]
    if wanted and not ends:
        first = _images(prompts)[0].end
        raise CalibrationError(
            "the grid takes whole images", where="--grid-questions", got=wanted, wanted=f"0, or {first} or more"
        )
    return ends[-1] if ends else 0


def chunks(prompts: Sequence[Prompt], grid: int, size: int = CHUNK) -> tuple[Chunk, ...]:
    """Returns the questions cut into pieces of whole images, of ``size`` or a little more; one cut is at ``grid``."""
    found: list[Chunk] = []
    first = 0
    for image in _images(prompts):
        if image.end - first >= size or image.end in (grid, len(prompts)):
            found.append(Chunk(first, image.end))
            first = image.end
    return tuple(found)


def digest_of_work(work: WorkList, prompts: Sequence[Prompt], *facts: str) -> str:
    """Returns the name of the folder that outcomes lie in: other work, questions or ``facts`` have another one."""
    digest = hashlib.sha256(msgspec.json.encode((work, [prompt[1:] for prompt in prompts], facts)))
    return digest.hexdigest()[:16]


def _images(prompts: Sequence[Prompt]) -> list[Chunk]:
    """Returns runs of questions about the same image."""
    found: list[Chunk] = []
    for _, group in groupby(prompts, key=lambda prompt: prompt.image):
        first = found[-1].end if found else 0
        found.append(Chunk(first, first + len(tuple(group))))
    return found
