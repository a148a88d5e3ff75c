"""Do they answer alike: our `full` against stock transformers, in the precision that is raced.

What it is: first-token logits and greedy tokens on a few random images, and a bound for them.
What it knows: how far stock transformers in this precision is from itself in fp32; ours may be `FACTOR` times as far
from there, because sums are added in another order. Where fp32 does not fit into memory, nothing is judged, and said.
What it does not know: pruned versions; those are held to a masked run of the stock model by the test suite, in fp32.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from stock import prompt_ids
from transformers import DynamicCache

from allrounder.errors import InputInvalid
from allrounder.images.pixels import PreparedImages, pixel_values
from allrounder.progress import Progress
from allrounder.runtime.engine import Engine
from allrounder.runtime.measure import Request
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.model import LoadedModel, load_model

__all__ = ["FACTOR", "FLOOR", "Answers", "Parity", "judge", "ours", "reference", "stock"]

FACTOR = 3.0  # times stock's own distance from fp32
FLOOR = 1e-4  # of the logits' standard deviation: what the project promises in fp32
_DULL = 0.05  # logits of a smaller standard deviation would be alike whatever is computed
_SPARE = 1.3  # what a model in fp32 takes in all, times its weights


class Answers(NamedTuple):
    """Of images: ``logits`` [images, V] float32 of the first token, and the greedy ``tokens`` [images, n]."""

    logits: np.ndarray
    tokens: np.ndarray


class Parity(msgspec.Struct, frozen=True):
    """How far apart; distances are the largest of any logit and image, in standard deviations of the reference's."""

    entry: str
    images: int
    logit_std: float
    from_stock: float  # ours from stock, same precision
    stock_from_fp32: float | None
    ours_from_fp32: float | None
    bound: float | None  # on the last; None where fp32 did not fit
    tokens: int
    equal_tokens: int  # ours and stock's, up to where an answer first differs
    met: bool | None  # None: not judged


def images(request: Request, count: int) -> list[np.ndarray]:
    """Returns random images of the request's size."""
    draws = np.random.default_rng(1)
    return [draws.integers(0, 256, request.rgb.shape, np.uint8) for _ in range(count)]


def reference(directory: Path, request: Request, prepared: Sequence[PreparedImages], device: str) -> Answers | None:
    """Returns stock's answers in fp32, or None where the model does not fit into the device's memory."""
    if device != "cpu":
        checkpoint = Checkpoint(directory)
        needed = 4 * _SPARE * sum(torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names())
        if torch.cuda.mem_get_info(device)[0] < needed:
            return None
    vlm = load_model(directory, torch.float32, device)
    found = stock(vlm, request, prepared)
    del vlm
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    return found


def stock(vlm: LoadedModel, request: Request, prepared: Sequence[PreparedImages]) -> Answers:
    """Returns stock's answers in the model's precision.

    Raises:
        InputInvalid: The model's logits say nothing: parity on them would prove nothing.
    """
    model: Any = vlm.model
    ids, rows = prompt_ids(vlm, request.layout), []
    for images_ in prepared:
        with torch.no_grad():
            cache = DynamicCache(config=model.config)
            given = torch.from_numpy(pixel_values(vlm.images, images_.tiles)).to(model.device, model.dtype)
            found = model(input_ids=ids, pixel_values=given, logits_to_keep=1, **{CACHE: cache})
            first, tokens = found.logits[0, -1].float().cpu().numpy(), [found.logits[:, -1].argmax(-1, keepdim=True)]
            for _ in range(request.new_tokens - 1):
                step = model(input_ids=tokens[-1], **{CACHE: cache})
                tokens.append(step.logits[:, -1].argmax(-1, keepdim=True))
        rows.append((first, torch.cat(tokens, 1)[0].cpu().numpy()))
    found = Answers(*(np.stack(column) for column in zip(*rows, strict=True)))
    deviation = float(found.logits.std())
    if not np.isfinite(found.logits).all() or deviation < _DULL:
        raise InputInvalid("the model's logits are degenerate", got=f"standard deviation {deviation}", wanted=_DULL)
    return found


def ours(engine: Engine, request: Request, prepared: Sequence[PreparedImages]) -> Answers:
    """Returns the answers of an engine."""
    rows = []
    for images_ in prepared:
        state = engine.start(images_, request.layout, free_slots=request.new_tokens - 1)
        tokens = [int(np.argmax(state.logits[0]))]
        for _ in range(request.new_tokens - 1):
            tokens.append(int(np.argmax(engine.decode(state, [tokens[-1]])[0, -1])))
        rows.append((state.logits[0].astype(np.float32), np.asarray(tokens)))
    return Answers(*(np.stack(column) for column in zip(*rows, strict=True)))


def judge(entry: str, mine: Answers, peer: Answers, exact: Answers | None) -> Parity:
    """Returns how far an engine's answers are from stock's, and from stock's in fp32 where there are any."""
    differs = mine.tokens != peer.tokens
    equal = np.where(differs.any(1), differs.argmax(1), differs.shape[1]).sum()
    deviation = float((exact or peer).logits.std())

    def apart(one: Answers, other: Answers) -> float:
        # A NaN is as far as can be, and no comparison finds that by itself.
        distance = float(np.abs(one.logits - other.logits).max()) / deviation
        return distance if np.isfinite(distance) else float("inf")

    noise = apart(peer, exact) if exact else None
    error = apart(mine, exact) if exact else None
    bound = max(FLOOR, FACTOR * noise) if noise is not None else None
    return Parity(
        entry=entry,
        images=len(mine.logits),
        logit_std=deviation,
        from_stock=apart(mine, peer),
        stock_from_fp32=noise,
        ours_from_fp32=error,
        bound=bound,
        tokens=int(differs.size),
        equal_tokens=int(equal),
        met=None if bound is None or error is None else error <= bound,
    )


def prepare(engine: Engine, request: Request, count: int, progress: Progress) -> list[PreparedImages]:
    """Returns random images, prepared once: both sides are given the same."""
    found = []
    for done, rgb in enumerate(images(request, count)):
        progress("preparing images", done, count)
        found.append(engine.prepare([rgb]))
    progress("preparing images", count, count)
    return found
