"""The peer: the same checkpoint in stock transformers, as it comes and compiled.

What it is: two subjects of the race that share one model.
What it knows: transformers' caches and torch.compile. What it does not know: this project's engines.

Compiled means: a static cache, and image to token ids in two compiled functions, one for the prompt and one for a
further token; on a GPU in the mode "reduce-overhead", which captures CUDA graphs. Both take the very ids that our
engines take, so tokenising counts for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from race import Times, spans
from transformers import DynamicCache, StaticCache

from allrounder.layout import PromptLayout
from allrounder.runtime.measure import Request
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.model import LoadedModel

__all__ = ["Compiled", "Eager", "prompt_ids"]

Step = Callable[..., torch.Tensor]


def prompt_ids(vlm: LoadedModel, layout: PromptLayout) -> torch.Tensor:
    """Returns the ids [1, R] of a prompt, the image token standing N times, on the model's device."""
    return torch.tensor([layout.input_ids], device=vlm.model.device)


class Eager:
    """Stock transformers as it comes: `from_pretrained`, scaled-dot-product attention, a cache that grows."""

    name = "transformers, eager"

    def __init__(self, vlm: LoadedModel, request: Request) -> None:
        self._vlm, self._request = vlm, request
        self._ids = prompt_ids(vlm, request.layout)
        self._first: Step = self._step
        self._next: Step = self._step
        self.answer: list[int] = []

    def ask(self) -> Times:
        """See `race.Subject`."""
        with torch.no_grad():
            cache = self._cache()
            marks = [time.perf_counter()]
            pixels = self._pixels(self._request.rgb)
            marks.append(time.perf_counter())
            token = self._answered(self._first, self._ids, pixels, cache)
            answer = [int(token)]  # the caller has it now: one that still lies in the device's queue is no answer
            marks.append(time.perf_counter())
            for _ in range(self._request.new_tokens - 1):
                token = self._answered(self._next, token, None, cache)
                answer.append(int(token))
            marks.append(time.perf_counter())
        self.answer = answer
        return spans(marks, self._request.new_tokens)

    def _pixels(self, rgb: np.ndarray) -> torch.Tensor:
        processor: Any = self._vlm.processor
        pixels = processor.image_processor(Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
        return pixels.to(self._vlm.model.device, self._vlm.model.dtype)

    def _cache(self) -> Any:
        return DynamicCache(config=self._vlm.model.config)

    def _answered(self, step: Step, ids: torch.Tensor, pixels: torch.Tensor | None, cache: Any) -> torch.Tensor:
        return step(ids, pixels, cache)

    def _step(self, ids: torch.Tensor, pixels: torch.Tensor | None, cache: Any) -> torch.Tensor:
        model: Any = self._vlm.model
        found = model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        return found.logits[:, -1].argmax(-1, keepdim=True)


class Compiled(Eager):
    """Stock transformers behind torch.compile."""

    name = "transformers, torch.compile"

    def __init__(self, vlm: LoadedModel, request: Request) -> None:
        super().__init__(vlm, request)
        decoder = vlm.spec.decoder
        length = self._ids.shape[1] + request.new_tokens
        self._static = StaticCache(config=vlm.model.config, max_cache_len=length)
        # Before the first call: a cache that is made inside a compiled function cannot keep its address.
        self._static.early_initialization(1, decoder.kv_heads, decoder.head_dim, vlm.model.dtype, vlm.model.device)
        mode = "reduce-overhead" if vlm.model.device.type == "cuda" else None
        # Whole graphs or an error: a graph that breaks, or is compiled too often, would be a weaker peer, silently.
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # noqa: SLF001 - torch documents it under this name
        self._first = torch.compile(self._step, mode=mode, dynamic=False, fullgraph=True)
        self._next = torch.compile(self._step, mode=mode, dynamic=False, fullgraph=True)
        self._token = torch.zeros((1, 1), dtype=torch.long, device=vlm.model.device)

    def _cache(self) -> Any:
        self._static.reset()
        return self._static

    def _answered(self, step: Step, ids: torch.Tensor, pixels: torch.Tensor | None, cache: Any) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what the last call returned may be overwritten
        return self._token.copy_(step(ids, pixels, cache))
