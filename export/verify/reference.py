"""The stock model in parts, one part in memory at a time.

It asks the stock model, not our spec, what is tied, which features are taken and what there is, so that a misreading of
ours shows against it. Everything is computed in float32, without gradients; the model itself is mapped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from allrounder.images.planning import Extent
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.stock import load_mapped

__all__ = ["LayerRun", "StockParts"]


class LayerRun(NamedTuple):
    """What a decoder layer gives: rows [1, R, H], keys and values [1, G, R, D]."""

    hidden: Tensor
    keys: Tensor
    values: Tensor


class StockParts:
    """Modules of the stock model, in float32 when asked for.

    Raises:
        ModelUnreadable, ModelUnsupported: The directory is not a model, or transformers does not load it.
    """

    def __init__(self, directory: Path) -> None:
        self.checkpoint = Checkpoint(directory)
        self.spec = self.checkpoint.spec
        self.digest = self.checkpoint.digest
        self._model: Any = load_mapped(self.checkpoint)
        self._decoder: Any = self._model.model.language_model
        self._tower: Any = self._model.model.vision_tower
        self.rotary: nn.Module = type(self._decoder.rotary_emb)(config=self._model.config.text_config)

    def embed(self, ids: Tensor) -> Tensor:
        """Returns embedding rows; only these are read from the mapped table."""
        return self._decoder.embed_tokens.weight[ids].float()

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stock cosine and sine [1, R, D] of positions [1, R]."""
        with torch.no_grad():
            return self.rotary(torch.zeros(1), positions)

    @torch.no_grad()
    def decoder_layer(self, index: int, hidden: Tensor, positions: Tensor) -> LayerRun:
        """Runs one stock decoder layer, causally, over rows [1, R, H] at positions [1, R]."""
        caught = _Caught()
        mask = torch.full((hidden.shape[1], hidden.shape[1]), torch.finfo(torch.float32).min).triu(1)
        output = _float32(self._decoder.layers[index])(
            hidden,
            attention_mask=mask[None, None],
            position_ids=positions,
            **{CACHE: caught},
            position_embeddings=self.angles(positions),
        )
        return LayerRun(output, *caught.found)

    @torch.no_grad()
    def logits(self, rows: Tensor) -> Tensor:
        """Returns logits [R, V] of last hidden rows [R, H], through the final norm."""
        normed = _float32(self._decoder.norm)(rows)
        # In slices: a float32 copy of a large table would be the largest thing in memory.
        return torch.cat([normed @ part.float().t() for part in self._model.lm_head.weight.split(4096)], dim=-1)

    @torch.no_grad()
    def vision_embeddings(self, pixels: Tensor) -> Tensor:
        """Returns the rows that enter the tower's first layer."""
        rows = _float32(self._tower.embeddings)(pixels)
        # CLIP alone has this norm, and its checkpoints spell it so.
        return _float32(self._tower.pre_layrnorm)(rows) if hasattr(self._tower, "pre_layrnorm") else rows

    @torch.no_grad()
    def vision_layer(self, index: int, rows: Tensor) -> Tensor:
        """Runs one stock layer of the tower."""
        output = _float32(self._tower.encoder.layers[index])(rows, attention_mask=None)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def image_embeds(self, states: Sequence[Tensor], sizes: Sequence[Extent]) -> Tensor:
        """Returns the image tokens [N, H] of the tower's first hidden states, which the stock code chooses from.

        States are [tiles, rows, hidden], of images of ``sizes``. Those that are not given count as NaN: if one is
        chosen, it shows.
        """
        unknown = [torch.full_like(states[0], torch.nan)] * (len(self._tower.encoder.layers) + 1 - len(states))
        outer = copy.copy(self._model.model)  # its own table of modules, the same modules
        outer._modules = dict(outer._modules)  # noqa: SLF001 - torch offers no other way to swap a module in a copy
        outer.vision_tower = _Seen((*states, *unknown))
        outer.multi_modal_projector = _float32(outer.multi_modal_projector)
        return FAMILIES[self.spec.model_type].image_embeds(outer, torch.zeros(len(states[0]), 3, 1, 1), sizes)


def _float32(module: nn.Module) -> nn.Module:
    """Returns a copy of a module with its weights in float32."""
    return copy.deepcopy(module).float()


class _Seen(nn.Module):
    """Takes the place of the tower, and gives hidden states that were computed layer by layer."""

    def __init__(self, states: tuple[Tensor, ...]) -> None:
        super().__init__()
        self._states = states

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self._states[-1], hidden_states=self._states)


class _Caught:
    """Takes keys and values as a cache would."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.found = (keys, values)
        return keys, values
