"""Votes: how a layer plan is frozen.

What it is: the rule that turns the router's layer scores on many prompts into one order of layers, and an
order into a plan.
What it knows: scores [P, M] and the gather layer K. What it does not know: how scores come about (an engine
gives them), and what a plan costs.

Every prompt ranks the layers K to M-1 by its scores; the mean rank decides (a mean of scores would let one
prompt of large scores outvote many), ties go to the lower index. One order per K serves every budget, so
plans of growing budgets are nested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allrounder.calib.questions import check_questions
from allrounder.errors import CalibrationError, InvalidBudget
from allrounder.progress import Progress, silent
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import to_rgb

__all__ = ["layer_order", "order_from", "plan_from"]


def layer_order(
    engine: Engine, prompts: Sequence[Prompt], gather_layer: int, progress: Progress = silent
) -> tuple[int, ...]:
    """Returns the layers ``gather_layer`` to M-1, the most wanted first, as the prompts vote.

    Args:
        engine: Any engine with a router.
        prompts: Picture questions; each has one vote.
        gather_layer: K; the layers below it are always kept and are not voted on.
        progress: Told once per prompt.

    Raises:
        CalibrationError: No prompts, or the engine has no router.
        PromptsInvalid: A question exceeds the engine's limits.
        ImageInvalid: A picture cannot be read.
    """
    if not prompts:
        raise CalibrationError("a layer vote needs prompts", remedy="give prompts by --calib")
    check_questions(engine, prompts)
    scores = []
    for done, prompt in enumerate(prompts, start=1):
        given = engine.route(engine.prompt(prompt.question), engine.see(to_rgb(prompt.image)))
        if given is None:
            raise CalibrationError("a layer vote needs a router", where=engine.entry.label, remedy="give --router")
        scores.append(np.asarray(given.layer_scores, dtype=np.float32).reshape(-1))
        progress("layer vote", done, len(prompts))
    return order_from(np.stack(scores), gather_layer)


def order_from(scores: NDArray[np.float32], gather_layer: int) -> tuple[int, ...]:
    """Returns the layers ``gather_layer`` to M-1 by mean rank of ``scores`` [P, M]; NaN counts as -inf."""
    wanted = np.where(np.isnan(scores), -np.inf, scores)[:, gather_layer:]
    by_score = np.argsort(-wanted, axis=1, kind="stable")  # stable: ties go to the lower index
    ranks = np.empty_like(by_score)
    np.put_along_axis(ranks, by_score, np.arange(wanted.shape[1])[None, :], axis=1)
    order = np.argsort(ranks.sum(axis=0), kind="stable")  # the sum orders as the mean does, in exact integers
    return tuple(int(layer) + gather_layer for layer in order)


def plan_from(order: Sequence[int], layers: int, gather_layer: int) -> tuple[int, ...]:
    """Returns the plan of ``layers`` layers: 0 to K-1 and the first of ``order``, ascending.

    Raises:
        InvalidBudget: Fewer than K (or 1) layers, or more than there are.
    """
    lowest, highest = max(gather_layer, 1), gather_layer + len(order)
    if not lowest <= layers <= highest:
        raise InvalidBudget("impossible number of decoder layers", got=layers, wanted=f"{lowest} to {highest}")
    return tuple(sorted((*range(gather_layer), *order[: layers - gather_layer])))
