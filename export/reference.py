"""The stock model in parts, one part in memory at a time.

What it is: `StockParts`, which makes single modules of the Hugging Face model and fills them from a checkpoint, and
the few lines that call them as the library does.
What it knows: the classes (from the model itself, made on torch's `meta` device) and their calling conventions.
What it does not know: graphs. Everything is computed in float32, without gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from allrounder.hosts.checkpoint import Checkpoint
from allrounder.hosts.keywords import CACHE
from allrounder.hosts.spec import read_config

__all__ = ["LayerRun", "StockParts"]


class LayerRun(NamedTuple):
    """What a decoder layer gives: rows [1, R, H], keys and values [1, G, R, D]."""

    hidden: Tensor
    keys: Tensor
    values: Tensor


class StockParts:
    """Modules of the stock model, made when asked for.

    Args:
        directory: Of the host.
    """

    def __init__(self, directory: Path) -> None:
        self.checkpoint = Checkpoint(directory)
        self.spec = self.checkpoint.spec
        self.digest = self.checkpoint.digest
        self._config: Any = read_config(directory)
        for config in (self._config, self._config.text_config, self._config.vision_config):
            config._attn_implementation = "sdpa"  # noqa: SLF001 - the documented switch has no public setter here
        with torch.device("meta"):
            self._model: Any = LlavaForConditionalGeneration(self._config)
        self._decoder: Any = self._model.model.language_model
        self._tower: Any = self._model.model.vision_tower
        self.rotary: nn.Module = type(self._decoder.rotary_emb)(config=self._config.text_config)

    def embed(self, ids: Tensor) -> Tensor:
        """Returns embedding rows; only these are read from the mapped table."""
        return self.checkpoint.read("decoder.embed_tokens.weight")[ids].float()

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stock cosine and sine [1, R, D] of positions [1, R]."""
        with torch.no_grad():
            return self.rotary(torch.zeros(1), positions)

    @torch.no_grad()
    def decoder_layer(self, index: int, hidden: Tensor, positions: Tensor) -> LayerRun:
        """Runs one stock decoder layer, causally, over rows [1, R, H] at positions [1, R]."""
        layer = self._made(self._decoder.layers[index], self._config.text_config, index)
        self._fill(layer, f"decoder.layers.{index}")
        caught = _Caught()
        mask = torch.full((hidden.shape[1], hidden.shape[1]), torch.finfo(torch.float32).min).triu(1)
        output = layer(
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
        norm = self._made(self._decoder.norm, self.spec.decoder.hidden, self.spec.decoder.norm_eps)
        self._fill(norm, "decoder.norm")
        name = "decoder.embed_tokens.weight" if self.spec.decoder.tied else "decoder.lm_head.weight"
        normed = norm(rows)
        # In slices: a float32 copy of a large table would be the largest thing in memory.
        return torch.cat([normed @ part.float().t() for part in self.checkpoint.read(name).split(4096)], dim=-1)

    @torch.no_grad()
    def vision_embeddings(self, pixels: Tensor) -> Tensor:
        """Returns the rows that enter the tower's first layer."""
        embeddings = type(self._tower.embeddings)(self._config.vision_config)
        self._fill(embeddings, "vision.embeddings")
        rows = embeddings(pixels)
        if not self.spec.vision.class_token:
            return rows
        norm = nn.LayerNorm(self.spec.vision.hidden, eps=self.spec.vision.norm_eps)
        self._fill(norm, "vision.pre_layrnorm")
        return norm(rows)

    @torch.no_grad()
    def vision_layer(self, index: int, rows: Tensor) -> Tensor:
        """Runs one stock layer of the tower."""
        layer = self._made(self._tower.encoder.layers[index], self._config.vision_config)
        self._fill(layer, f"vision.encoder.layers.{index}")
        output = layer(rows, attention_mask=None)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Returns visual tokens of the tower's chosen rows, feature layers side by side."""
        projector = self._made(self._model.model.multi_modal_projector, self._config)
        self._fill(projector, "projector")
        return projector(features)

    @staticmethod
    def _made(example: nn.Module, *arguments: Any) -> nn.Module:
        """Returns a new module of an example's class, without memory for its weights yet."""
        with torch.device("meta"):
            return type(example)(*arguments)

    def _fill(self, module: nn.Module, prefix: str) -> None:
        """Replaces a module's random weights by those of the checkpoint, in float32."""
        state = {name: self.checkpoint.read(f"{prefix}.{name}").float() for name in module.state_dict()}
        module.load_state_dict(state, assign=True)
        module.eval()


class _Caught:
    """Takes keys and values as a cache would."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.found = (keys, values)
        return keys, values
