"""Rankings: how static layers are chosen.

Every prompt ranks the layers K to M-1 by its scores; the mean rank decides (a mean of scores would let one
prompt of large scores outvote many), ties go to the lower index. One order per K serves every budget, so
the lists of growing budgets are nested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from allrounder.calib.questions import check_questions, layout_of
from allrounder.errors import CalibrationError
from allrounder.progress import Progress, silent
from allrounder.prompts import Prompt
from allrounder.pruning import PruningConfig
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import to_rgb

__all__ = ["layer_order", "order_from", "ranked"]


def layer_order(
    engine: Engine, prompts: Sequence[Prompt], prune_layer: int, progress: Progress = silent
) -> tuple[int, ...]:
    """Returns the layers ``prune_layer`` to M-1, the most wanted first, as the prompts rank them.

    Raises:
        CalibrationError: No prompts, or the engine has no router.
        PromptsInvalid: A question exceeds the engine's limits.
        ImageInvalid: An image cannot be read.
    """
    if not prompts:
        raise CalibrationError("a layer ranking needs prompts", remedy="give prompts by --calib")
    check_questions(engine, prompts)
    scores = []
    for done, prompt in enumerate(prompts, start=1):
        images = engine.prepare([to_rgb(prompt.image)])
        given = engine.route(layout_of(engine, prompt, images.planned), engine.embed(images))
        if given is None:
            raise CalibrationError("a layer ranking needs a router", where=engine.entry.label, remedy="give --router")
        scores.append(np.asarray(given.layer_scores, dtype=np.float32).reshape(-1))
        progress("layer ranking", done, len(prompts))
    return order_from(np.stack(scores), prune_layer)


def order_from(scores: NDArray[np.float32], prune_layer: int) -> tuple[int, ...]:
    """Returns the layers ``prune_layer`` to M-1 by mean rank of ``scores`` [P, M]; NaN counts as -inf."""
    wanted = np.where(np.isnan(scores), -np.inf, scores)[:, prune_layer:]
    by_score = np.argsort(-wanted, axis=1, kind="stable")  # stable: ties go to the lower index
    ranks = np.empty_like(by_score)
    np.put_along_axis(ranks, by_score, np.arange(wanted.shape[1])[None, :], axis=1)
    order = np.argsort(ranks.sum(axis=0), kind="stable")  # the sum orders as the mean does, in exact integers
    return tuple(int(layer) + prune_layer for layer in order)


def ranked(pruning: PruningConfig, order: Sequence[int]) -> PruningConfig:
    """Returns ``pruning``, where its layers are not ranked yet with 0 to K-1 and the first of ``order``."""
    if not pruning.unranked:
        return pruning
    below = pruning.prune_layer
    return replace(pruning, kept_layers=tuple(sorted((*range(below), *order[: pruning.layers - below]))))
