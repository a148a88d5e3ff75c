"""References: what the unpruned host itself says, the only teacher there is.

What it is: batches of examples with the host's greedy answers and next-token distributions, cached.
What it knows: that visual rows, answers and distributions of a frozen host never change; and a limit of memory.
What it does not know: flows, routers, losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allrounder.hosts.host import Host
from allrounder.hosts.prompt import PromptBatch, PromptEncoder
from allrounder.hosts.pruned import PrunedHost, full_flow
from allrounder.router.examples import Example, Examples
from allrounder.router.forced import Answers, attention_mass, forced_rows

__all__ = ["Batch", "References"]


class Batch(NamedTuple):
    """Examples as training needs them.

    ``embeddings`` [B, P + N + S, H]; ``prompt``; ``answers``, the host's own; ``log_probs`` float32 [B, A, V],
    the host's next-token distributions along them; ``attention`` float32 [B, N], how much of the host's attention each
    visual token gets while it answers (see `attention_mass`).
    """

    embeddings: Tensor
    prompt: PromptBatch
    answers: Answers
    log_probs: Tensor
    attention: Tensor


class _Reference(NamedTuple):
    """One cached example, on the CPU: the parts of a `Batch` without padding, ``visual`` [N, H] among them."""

    question: str
    visual: Tensor
    answer: Tensor
    log_probs: Tensor
    attention: Tensor

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in (self.visual, self.answer, self.log_probs, self.attention))


class References:
    """Makes batches of an example set.

    Args:
        host: The frozen host.
        examples: The set.
        gather_layer: K; the attention of layers below it does not count.
        answer_tokens: Answers are cut here.
        cache_mib: MiB of main memory that computed references may take; beyond it they are computed again.
    """

    def __init__(
        self, host: Host, examples: Examples, gather_layer: int, answer_tokens: int = 16, cache_mib: int = 2048
    ) -> None:
        self.examples, self._gather_layer = examples, gather_layer
        self._host, self._pruned = host, PrunedHost(host)
        # Made once: building it parses the whole tokenizer.
        self._encoder = PromptEncoder(host.tokenizer.backend_tokenizer.to_str(), host.template)
        self._answer_tokens = answer_tokens
        self._room = cache_mib << 20
        self._cache: dict[int, _Reference] = {}

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns the examples of these indices."""
        return self._collate([self._reference(index) for index in indices])

    def _reference(self, index: int) -> _Reference:
        if index in self._cache:
            return self._cache[index]
        reference = self._compute(self.examples[index])
        if reference.bytes <= self._room:
            self._room -= reference.bytes
            self._cache[index] = reference
        return reference

    @torch.no_grad()
    def _compute(self, example: Example) -> _Reference:
        """Computes one alone: then it does not depend, not in its last bit, on what it was asked for with."""
        device = self._host.model.device
        picture = Image.fromarray(example.image)
        pixels = self._host.processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
        visual = self._pruned.visual(pixels.to(device))
        prompt = self._encoder.batch([example.question]).to(device)
        answer = self._answer(visual, prompt)
        one = Answers(answer[None], torch.tensor([len(answer)], device=device))
        forced = forced_rows(self._host, self._pruned.embeddings(visual, prompt), prompt, one, self._gather_layer)
        tops, attention = attention_mass(self._host, forced, self._gather_layer)
        return _Reference(example.question, visual[0].cpu(), answer.cpu(), tops[0].cpu(), attention[0].cpu())

    def _answer(self, visual: Tensor, prompt: PromptBatch) -> Tensor:
        """Returns the host's greedy answer int64 [A], with the stop token that ended it."""
        state = self._pruned.prefill(visual, prompt, full_flow(self._host))
        ids = self._pruned.greedy(state, self._answer_tokens, self._host.stop_ids)[0]
        stopped = torch.isin(ids, torch.tensor(self._host.stop_ids, device=ids.device))
        return ids[: int(stopped.long().argmax()) + 1] if bool(stopped.any()) else ids

    def _collate(self, references: list[_Reference]) -> Batch:
        device = self._host.model.device
        visual = torch.stack([reference.visual for reference in references]).to(device)
        prompt = self._encoder.batch([reference.question for reference in references]).to(device)
        lengths = torch.tensor([len(reference.answer) for reference in references], device=device)
        padded = pad_sequence([reference.answer for reference in references], batch_first=True).to(device)
        tops = pad_sequence([reference.log_probs for reference in references], batch_first=True).to(device)
        attention = torch.stack([reference.attention for reference in references]).to(device)
        return Batch(self._pruned.embeddings(visual, prompt), prompt, Answers(padded, lengths), tops, attention)
