"""The pictures on a card's page: a few questions, asked of every version.

What it is: one function. What it knows: the runtime, and which engines a page shows: `full`, and the versions that
choose layers per input. What it does not know: the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allrounder.bundle import OpenBundle
from allrounder.commands.page import Kept, Sample
from allrounder.commands.picture import as_seen
from allrounder.manifest import Entry
from allrounder.prompts import Prompt
from allrounder.runtime.engine import open_engines
from allrounder.runtime.image import to_rgb
from allrounder.runtime.options import EngineOptions
from allrounder.runtime.runtime import Runtime
from allrounder.versions import FULL, VERSIONS

__all__ = ["ask_versions"]

_ANSWER_TOKENS = 32


def ask_versions(bundle: OpenBundle, entries: Sequence[Entry], prompts: Sequence[Prompt]) -> tuple[Sample, ...]:
    """Returns, for each of ``prompts``, the picture and what `full` and the routed versions kept of it and answered.

    Args:
        bundle: Where the entries lie.
        entries: `full` first; those of custom budgets and frozen layers are passed over.
        prompts: The questions.
    """
    shown = [entry for entry in entries if entry.version == FULL or _named(entry)]
    engines = open_engines(bundle, shown, EngineOptions(weights="shared"))
    limit = min(_ANSWER_TOKENS, bundle.manifest.limits.new_tokens)
    samples = []
    for prompt in prompts:
        rgb = to_rgb(prompt.image)
        answers = [Runtime(engine).generate(rgb, prompt.question, max_new_tokens=limit) for engine in engines]
        kept = tuple(
            Kept(entry.version, answer.keep_list, answer.layer_plan, answer.text)
            for entry, answer in zip(shown, answers, strict=True)
        )
        picture = np.asarray(as_seen(engines[0], rgb))
        samples.append(Sample(picture, prompt.question, prompt.answer, kept))
    return tuple(samples)


def _named(entry: Entry) -> bool:
    return entry.version in VERSIONS and entry.layer_policy == "routed"
