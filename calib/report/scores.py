"""Scores of other pruners, one question at a time, as engines are fed them.

They are of the image tokens that the engines' own tower gives of what is shown. A half is scored once per question and
way to show its image, however many rows ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from allrounder.calib.fidelity import Scorer, Seen
from allrounder.calib.report.bundle import Sources
from allrounder.chat.messages import question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid
from allrounder.fidelity_report import ROUTER
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.images.shown import Shown
from allrounder.layout import PromptLayout
from allrounder.prompts import Prompt
from allrounder.router.checkpoint import load_router
from allrounder.router.pruners import LAYER_PRUNERS, LayerPruner, Setting, TokenPruner, View, token_pruner
from allrounder.runtime.engine import Scores
from allrounder.runtime.image import to_rgb
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel

__all__ = ["SEED", "PrunerScores"]

SEED = 0  # of random scores; with it and the question's name they are the same in every run

_Half = TokenPruner | LayerPruner


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
        views = [self._whole(prompt) for prompt in calibration]
        self._setting = Setting(vlm=self._vlm, prune_layer=sources.prune_layer, seed=SEED, calibration=views)
        self._halves: dict[tuple[str, str], _Half] = {}
        self._scorers: dict[str, Scorer] = {}
        self._now: Prompt | None = None
        self._views: dict[Shown, View] = {}  # of the question now
        self._scored: dict[tuple[Shown, str, str], np.ndarray] = {}

    def scorer(self, pruner: str) -> Scorer:
        """Returns the scorer of "<token or image pruner>+<layer pruner>", the same object each time.

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

        def scores(seen: Seen) -> Scores:
            return Scores(self._score(seen, ("token", tokens)), self._score(seen, ("layer", layers)))

        return scores

    def _make(self, kind: str, name: str) -> _Half:
        if name == ROUTER:
            place = 0 if kind == "token" else 1
            return lambda view: self._router(view.embeddings, view.prompt)[place]
        if kind == "token":
            return token_pruner(name)(self._setting)
        if name not in LAYER_PRUNERS:
            raise InputInvalid("there is no such layer pruner", got=name, wanted=", ".join(LAYER_PRUNERS))
        return LAYER_PRUNERS[name](self._setting)

    @torch.no_grad()
    def _score(self, seen: Seen, half: tuple[str, str]) -> np.ndarray:
        """Returns [N] or [M] float32; computed once for a question that several rows ask in turn."""
        if self._now != seen.prompt:
            self._now, self._views, self._scored = seen.prompt, {}, {}
        key = (seen.shown, *half)
        if key not in self._scored:
            if seen.shown not in self._views:
                image_embeds = torch.tensor(seen.image_embeds)[None]
                self._views[seen.shown] = self._view(seen.prompt, seen.layout, image_embeds)
            self._scored[key] = self._halves[half](self._views[seen.shown])[0].float().numpy()
        return self._scored[key]

    @torch.no_grad()
    def _whole(self, prompt: Prompt) -> View:
        """Returns the view of a calibration prompt, read by the model in torch."""
        rgb, plan = to_rgb(prompt.image), self._vlm.images
        sizes = [(rgb.shape[0], rgb.shape[1])]
        pixels = torch.from_numpy(pixel_values(plan, prepare_images(plan, [rgb]).tiles))
        (layout,) = model_layouts(self._vlm, [question(prompt.question)], self._encoder, [sizes])
        return self._view(prompt, layout, self._pruned.image_embeds(pixels, sizes)[None])

    def _view(self, prompt: Prompt, layout: PromptLayout, image_embeds: torch.Tensor) -> View:
        batch = prompt_batch([layout])
        try:
            image = prompt.image.relative_to(self._folder).as_posix()
        except ValueError:
            image = prompt.image.name
        return View(
            image_embeds=image_embeds,
            prompt=batch,
            embeddings=self._pruned.embeddings(image_embeds, batch),
            identity=(f"{image}\n{prompt.question}",),
        )
