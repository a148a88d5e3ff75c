"""The stock model in parts, one part in memory at a time.

It asks the stock model, not our spec, what is tied, which features are taken and what there is, so that a misreading of
ours shows against it. Everything is computed in float32, without gradients; the model itself is mapped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from inspect import signature
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
        self._modules = FAMILIES[self.spec.model_type].modules
        self._decoder: Any = getattr(self._model.model, self._modules.decoder)
        self._tower: Any = getattr(self._model.model, self._modules.tower)
        encoder = self._tower.encoder
        self._tower_layers: Any = encoder.layer if hasattr(encoder, "layer") else encoder.layers
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
        embeddings = _float32(self._tower.embeddings)
        if "patch_attention_mask" in signature(embeddings.forward).parameters:  # SmolVLM's; of whole tiles, all ones
            grid = self.spec.vision.grid
            rows = embeddings(pixels, torch.ones(len(pixels), grid, grid, dtype=torch.bool))
        else:
            rows = embeddings(pixels)
        # CLIP alone has this norm, and its checkpoints spell it so.
        return _float32(self._tower.pre_layrnorm)(rows) if hasattr(self._tower, "pre_layrnorm") else rows

    @torch.no_grad()
    def vision_layer(self, index: int, rows: Tensor) -> Tensor:
        """Runs one stock layer of the tower."""
        layer = _float32(self._tower_layers[index])
        masked = "attention_mask" in signature(layer.forward).parameters  # InternVL's take none
        output = layer(rows, attention_mask=None) if masked else layer(rows)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def image_embeds(self, states: Sequence[Tensor], sizes: Sequence[Extent]) -> Tensor:
        """Returns the image tokens [N, H] of the tower's first hidden states, which the stock code chooses from.

        States are [tiles, rows, hidden], of images of ``sizes``. Those that are not given count as NaN: if one is
        chosen, it shows.
        """
        unknown = [torch.full_like(states[0], torch.nan)] * (len(self._tower_layers) + 1 - len(states))
        outer = copy.copy(self._model.model)  # its own table of modules, the same modules
        outer._modules = dict(outer._modules)  # noqa: SLF001 - torch offers no other way to swap a module in a copy
        setattr(outer, self._modules.tower, _Seen((*states, *unknown), self._last_norm()))
        setattr(outer, self._modules.projector, _float32(getattr(outer, self._modules.projector)))
        side = self.spec.vision.image_size
        return FAMILIES[self.spec.model_type].image_embeds(outer, torch.ones(len(states[0]), 3, side, side), sizes)

    def _last_norm(self) -> nn.Module:
        """Returns what makes a tower's last hidden state of its last layer's; CLIP's last norm is of a single row."""
        last = getattr(self._tower, "post_layernorm", None)
        return nn.Identity() if last is None or hasattr(self._tower, "pre_layrnorm") else _float32(last)


def _float32(module: nn.Module) -> nn.Module:
    """Returns a copy of a module with its weights in float32."""
    return copy.deepcopy(module).float()


class _Seen(nn.Module):
    """Takes the place of the tower, and gives hidden states that were computed layer by layer."""

    def __init__(self, states: tuple[Tensor, ...], last_norm: nn.Module) -> None:
        super().__init__()
        self._states, self._last = states, last_norm(states[-1])

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self._last, hidden_states=self._states)


class _Caught:
    """Takes keys and values as a cache would."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.found = (keys, values)
        return keys, values
