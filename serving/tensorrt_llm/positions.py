"""The positions of kept rows: those of the unpruned prompt, where TensorRT-LLM hands on its own, which it counts.

What it is: a function from ids and counted positions to positions; the same for every request of a checkpoint, token by
token, so that it needs neither the requests' lengths nor anything of an earlier step.
What it knows: every prompt is ``[before | T rows | text]`` with the template's text before the image, and the id of a
row says which of all N tokens it is. What it does not know: attention; whether anything rotates by what it returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from allrounder.engines.checkpoint.sidecar import IMAGE_FOLDER, read_sidecar
from allrounder.errors import BundleCorrupt
from allrounder.golden import TOKENIZER
from allrounder.runtime.prompt import Prompter

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
        path = Path(checkpoint) / IMAGE_FOLDER / TOKENIZER
        try:
            prompter = Prompter(path.read_text(encoding="utf-8"), sidecar.prompt)
        except (OSError, UnicodeDecodeError) as error:
            raise BundleCorrupt("the tokenizer cannot be read", where=path, got=error) from error
        return cls(len(prompter.ids("?").prefix_ids), sidecar.entry.pruning.keep, sidecar.model.image_tokens)

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
