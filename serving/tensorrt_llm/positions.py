"""The positions of kept rows: those of the unpruned prompt, where TensorRT-LLM hands on its own, which it counts.

They follow from ids and counted positions alone, token by token, so that neither the requests' lengths nor anything of
an earlier step is needed: every prompt is ``[before | T rows | text]`` with one image, as many ids before it as in a
question's prompt, and the id of a row says which of all N tokens it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from allrounder.chat.messages import question
from allrounder.engines.checkpoint.sidecar import read_sidecar
from allrounder.serving.kept_rows import open_prompter

__all__ = ["Positions"]


class Positions(NamedTuple):
    """How a checkpoint's prompts are laid out."""

    before: int  # ids before the image
    tokens: int  # T
    image_tokens: int  # N

    @classmethod
    def of(cls, checkpoint: Path | str) -> Positions:
        """Reads the layout; opens no graph.

        Raises:
            BundleError: There is no pruned checkpoint, or its tokenizer cannot be read.
        """
        sidecar = read_sidecar(Path(checkpoint))
        ids, model = open_prompter(Path(checkpoint), sidecar).ids(question("?")), sidecar.model
        kept = sidecar.entry.pruning.budget(model.images.tokens).tokens
        return cls(ids.index(model.image_token_id), kept, model.images.tokens)

    @property
    def dropped(self) -> int:
        """By how much text behind the image moves."""
        return self.image_tokens - self.tokens

    def unpruned(self, ids: torch.Tensor, counted: torch.Tensor, vocabulary: int) -> torch.Tensor:
        """Returns the positions in the unpruned prompt.

        Args:
            ids: [n], of any requests, prompts and new tokens; ids from ``vocabulary`` on are rows.
            counted: [1, n] or [n], positions as the executor counts them.
            vocabulary: The id of the first of all N tokens.
        """
        places = counted.reshape(-1)
        behind = torch.where(places < self.before + self.tokens, places, places + self.dropped)
        rows = self.before + ids.reshape(-1) - vocabulary
        return torch.where(ids.reshape(-1) < vocabulary, behind, rows).to(counted.dtype).reshape(counted.shape)
