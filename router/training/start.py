"""Start: a router's weights before its first step: drawn from a seed, the model's first layers, or another router's.

Another model's router is a fair start where its shapes fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from allrounder.errors import InputInvalid, RouterMismatch
from allrounder.router.checkpoint import load_router, load_state, read_record
from allrounder.router.model import MetaRouter, copy_model_layers
from allrounder.router.training.objective import TrainOptions
from allrounder.vlm.model import LoadedModel

__all__ = ["Start", "first_router", "read_start"]


class Start(NamedTuple):
    """Another router as a start: its weights on the CPU, the digest of their file, and the digest of its model."""

    router: MetaRouter
    digest: str
    model_digest: str

    def facts(self) -> dict[str, str | int | float | bool]:
        return {"init_weights": self.digest, "init_model": self.model_digest}


def read_start(directory: Path | str, vlm: LoadedModel) -> Start:
    """Returns the router of a directory as a start for a model that need not be its own.

    Raises:
        RouterMismatch: No router there, or one whose shapes are not this model's.
    """
    record = read_record(directory)
    router = load_router(directory, model_spec=vlm.spec, model_digest=record.model_digest)
    return Start(router, record.weights.sha256, record.model_digest)


def first_router(vlm: LoadedModel, options: TrainOptions, start: Start | None) -> MetaRouter:
    """Returns the router before its first step, the same for the same seed.

    Raises:
        InputInvalid: Two starts are given at once.
        RouterMismatch: The start is of another attention, scope or number of layers than the options say.
    """
    device = vlm.model.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        config: Any = vlm.model.config.text_config
        router = MetaRouter(vlm.spec, config, options.attention, options.router_layers, options.scope)
    if start is not None:
        _check(start, options)
        remedy = "start from a router of a model of the same decoder shape, or without --init"
        load_state(router, start.router.state_dict(), "--init", remedy)
    elif options.start == "model":
        copy_model_layers(router, list(vlm.decoder.layers))
    return router.to(device)


def _check(start: Start, options: TrainOptions) -> None:
    if options.start != "fresh":
        raise InputInvalid("two starts", got=f"--init and start={options.start}", remedy="give one of them")
    found = (start.router.attention, start.router.scope, len(start.router.layers))
    if found != (options.attention, options.scope, options.router_layers):
        raise RouterMismatch(
            "the router to start from is of another kind",
            where="--init",
            got="attention={}, scope={}, router_layers={}".format(*found),
            wanted=f"attention={options.attention}, scope={options.scope}, router_layers={options.router_layers}",
            remedy="add --set attention={} --set scope={} --set router_layers={}".format(*found),
        )
