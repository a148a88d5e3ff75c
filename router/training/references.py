"""References: what the unpruned model itself says, the only teacher there is.

What it is: batches of examples with the model's greedy answers and next-token distributions, cached.
What it knows: that image tokens, answers and distributions of a frozen model never change; a limit of memory; and that
all questions of one image are always computed together, whichever is asked for first: a reference then is a function
of the example set alone, to its last bit, and a resumed run sees what an unbroken one saw.
What it does not know: decisions, routers, losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allrounder.chat.messages import question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.layout import PromptLayout
from allrounder.router.reading import Spoken, answer, read_common
from allrounder.router.training.examples import Examples
from allrounder.router.training.forced import Answers
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch, model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel

__all__ = ["Batch", "References"]

TOGETHER = 8  # questions that are answered at a time; each holds keys and values of the whole prompt


class Batch(NamedTuple):
    """Examples as training needs them.

    ``embeddings`` [B, R, H]; ``prompt``; ``answers``, the model's own; ``log_probs`` float32 [B, A, V],
    the model's next-token distributions along them; ``identity``, one name per example, by which chance may be drawn
    that does not depend on order.
    """

    embeddings: Tensor
    prompt: PromptBatch
    answers: Answers
    log_probs: Tensor
    identity: tuple[str, ...] = ()


class _Said(NamedTuple):
    """One example on the CPU: the parts of a `Batch` without padding."""

    layout: PromptLayout
    spoken: Spoken


class _Image(NamedTuple):
    """All examples of one image on the CPU; ``image_embeds`` [N, H] is held once."""

    image_embeds: Tensor
    said: dict[int, _Said]

    @property
    def bytes(self) -> int:
        parts = [self.image_embeds]
        for one in self.said.values():
            parts += one.spoken
        return sum(part.nbytes for part in parts)


class References:
    """Makes batches of an example set.

    Args:
        vlm: The frozen model.
        examples: The set.
        answer_tokens: Answers are cut here.
        cache_mib: MiB of main memory that computed references may take; beyond it they are computed again. An image
            takes N x H values of the model's dtype, a question its answer's tokens x V x 4 bytes (up to 2 MiB where
            V = 32,000).
    """

    def __init__(self, vlm: LoadedModel, examples: Examples, answer_tokens: int = 16, cache_mib: int = 2048) -> None:
        self.examples, self._answer_tokens = examples, answer_tokens
        self._vlm, self._pruned = vlm, PrunedModel(vlm)
        # Made once: building it parses the whole tokenizer.
        self._encoder = ChatEncoder(vlm.tokenizer_json, vlm.chat)
        self._free_slots = cache_mib << 20
        self._cache: dict[int, _Image] = {}
        self._questions: dict[int, list[int]] = {}
        for index in range(len(examples)):
            self._questions.setdefault(examples.image(index), []).append(index)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns the examples of these indices."""
        wanted = {self.examples.image(index) for index in indices}
        # Held here until the batch is made: without room in the cache, each is still computed once only.
        images = {image: self._image(image) for image in sorted(wanted)}
        return self._collate(indices, [images[self.examples.image(index)] for index in indices])

    def _image(self, image: int) -> _Image:
        if image in self._cache:
            return self._cache[image]
        found = self._compute(self._questions[image])
        if found.bytes <= self._free_slots:
            self._free_slots -= found.bytes
            self._cache[image] = found
        return found

    @torch.no_grad()
    def _compute(self, indices: list[int]) -> _Image:
        """Computes all examples of one image: the tower and the rows that all prompts share run once."""
        device = self._vlm.model.device
        rgb, plan = np.asarray(self.examples[indices[0]].image, np.uint8), self._vlm.images
        pixels = torch.from_numpy(pixel_values(plan, prepare_images(plan, [rgb]).tiles))
        sizes = [(rgb.shape[0], rgb.shape[1])]
        image_embeds = self._pruned.image_embeds(pixels, sizes)[None]
        asked = [question(self.examples.question(index)) for index in indices]
        layouts = model_layouts(self._vlm, asked, self._encoder, [sizes] * len(asked))
        common = read_common(self._pruned, image_embeds, prompt_batch(layouts).to(device))
        said: dict[int, _Said] = {}
        for start in range(0, len(indices), TOGETHER):
            part = slice(start, start + TOGETHER)
            prompt = prompt_batch(layouts[part]).to(device)
            spoken = answer(self._pruned, image_embeds, prompt, common, self._answer_tokens, self._vlm.stop_ids)
            local = [Spoken(*(tensor.cpu() for tensor in one)) for one in spoken]
            said |= dict(zip(indices[part], map(_Said, layouts[part], local), strict=True))
        return _Image(image_embeds[0].cpu(), said)

    def _collate(self, indices: Sequence[int], images: list[_Image]) -> Batch:
        device = self._vlm.model.device
        image_embeds = pad_sequence([image.image_embeds for image in images], batch_first=True).to(device)
        said = [image.said[index] for image, index in zip(images, indices, strict=True)]
        prompt = prompt_batch([one.layout for one in said]).to(device)
        tops = pad_sequence([one.spoken.log_probs for one in said], batch_first=True).to(device)
        return Batch(
            self._pruned.embeddings(image_embeds, prompt),
            prompt,
            _answers([one.spoken.ids for one in said], device),
            tops,
            tuple(f"{self.examples.name}/{index}" for index in indices),
        )


def _answers(ids: list[Tensor], device: torch.device) -> Answers:
    """Returns answers padded on the right."""
    lengths = torch.tensor([len(one) for one in ids], device=device)
    return Answers(pad_sequence(ids, batch_first=True).to(device), lengths)
