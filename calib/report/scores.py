"""Scores of other pruners, one question at a time, as engines are fed them.

An image is read once, and a half is scored once per question, however many rows ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allrounder.calib.fidelity import Scorer
from allrounder.calib.report.bundle import Sources
from allrounder.chat.messages import question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid
from allrounder.fidelity_report import ROUTER
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.images.planning import Extent
from allrounder.prompts import Prompt
from allrounder.router.checkpoint import load_router
from allrounder.router.pruners import LAYER_PRUNERS, TOKEN_PRUNERS, Setting, View
from allrounder.runtime.engine import Scores
from allrounder.runtime.image import to_rgb
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel

__all__ = ["SEED", "PrunerScores"]

SEED = 0  # of random scores; with it and the question's name they are the same in every run

_Half = Callable[[View], torch.Tensor]


class PrunerScores:
    """Scores by pruners that read the model in torch; not for several threads.

    Args:
        sources: The model; its router, for pairs that take one half from it; K.
        calibration: Prompts from which static layer orders are found.
        folder: Questions are named by their image's path from here, and their text.
    """

    def __init__(self, sources: Sources, calibration: Sequence[Prompt], folder: Path) -> None:
        self._vlm, self._folder = load_model(sources.vlm), folder
        self._pruned = PrunedModel(self._vlm)
        self._encoder = ChatEncoder(self._vlm.tokenizer_json, self._vlm.chat)
        self._router = load_router(sources.router, model_spec=self._vlm.spec, model_digest=self._vlm.digest).eval()
        self._seen = lru_cache(maxsize=1)(self._image_embeds)
        views = [self._view(prompt) for prompt in calibration]
        self._setting = Setting(vlm=self._vlm, prune_layer=sources.prune_layer, seed=SEED, calibration=views)
        self._halves: dict[tuple[str, str], _Half] = {}
        self._scorers: dict[str, Scorer] = {}
        self._now: tuple[Prompt, View] | None = None
        self._scored: dict[tuple[str, str], np.ndarray] = {}

    def scorer(self, pruner: str) -> Scorer:
        """Returns the scorer of "<token pruner>+<layer pruner>", the same object each time.

        Raises:
            InputInvalid: There is no such pruner.
        """
        if pruner not in self._scorers:
            self._scorers[pruner] = self._made(pruner)
        return self._scorers[pruner]

    def _made(self, pruner: str) -> Scorer:
        tokens, _, layers = pruner.partition("+")
        for half in (("token", tokens), ("layer", layers)):
            if half not in self._halves:
                self._halves[half] = self._make(*half)

        def scores(prompt: Prompt) -> Scores:
            return Scores(self._score(prompt, ("token", tokens)), self._score(prompt, ("layer", layers)))

        return scores

    def _make(self, kind: str, name: str) -> _Half:
        if name == ROUTER:
            place = 0 if kind == "token" else 1
            return lambda view: self._router(view.embeddings, view.prompt)[place]
        table: dict[str, Any] = TOKEN_PRUNERS if kind == "token" else LAYER_PRUNERS
        if name not in table:
            raise InputInvalid(f"there is no such {kind} pruner", got=name, wanted=", ".join(table))
        return table[name](self._setting)

    @torch.no_grad()
    def _score(self, prompt: Prompt, half: tuple[str, str]) -> np.ndarray:
        """Returns [N] or [M] float32; computed once for a question that several rows ask in turn."""
        if self._now is None or self._now[0] != prompt:
            self._now, self._scored = (prompt, self._view(prompt)), {}
        if half not in self._scored:
            self._scored[half] = self._halves[half](self._now[1])[0].float().numpy()
        return self._scored[half]

    @torch.no_grad()
    def _view(self, prompt: Prompt) -> View:
        image_embeds, size = self._seen(prompt.image)
        batch = prompt_batch(model_layouts(self._vlm, [question(prompt.question)], self._encoder, [[size]]))
        try:
            image = prompt.image.relative_to(self._folder).as_posix()
        except ValueError:
            image = prompt.image.name
        name = f"{image}\n{prompt.question}"
        return View(
            image_embeds=image_embeds,
            prompt=batch,
            embeddings=self._pruned.embeddings(image_embeds, batch),
            identity=(name,),
        )

    def _image_embeds(self, image: Path) -> tuple[torch.Tensor, Extent]:
        """Returns the image tokens [1, N, H] of an image, and its height and width."""
        rgb, plan = to_rgb(image), self._vlm.images
        size = rgb.shape[0], rgb.shape[1]
        pixels = torch.from_numpy(pixel_values(plan, prepare_images(plan, [rgb]).tiles))
        return self._pruned.image_embeds(pixels, [size])[None], size
