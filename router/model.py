"""The meta-router: one small decoder that scores image tokens and decoder layers.

It is stock decoder layers of the model's own family and shape, learnable layer tokens, final norm, a linear head.
Scores are float32 rank logits. Budgets are not known here (see `selection`).

Input rows are ``[prefix | V | suffix | M layer tokens]``; suffixes are padded on the right, and positions count without
the padding, so that a padded row gives what it gives alone. With ``attention="causal"`` (the code of PAR, ICCV 2025)
token scores cannot see the question and may be kept per image; with ``"bidirectional"`` they see it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig

from allrounder.errors import InputInvalid
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.spec import ModelSpec

__all__ = ["AttentionKind", "MetaRouter", "Scores", "copy_model_layers", "gumbel"]

AttentionKind = Literal["causal", "bidirectional"]


class Scores(NamedTuple):
    """Rank logits: ``token_scores`` float32 [B, N], ``layer_scores`` float32 [B, M]. Only their order counts."""

    token_scores: Tensor
    layer_scores: Tensor


class MetaRouter(nn.Module):
    """Scores the image tokens and decoder layers of one model.

    Args:
        spec: The model; gives N.
        text_config: The model's text config; gives family, width and M. It is copied.
        attention: Who sees whom, see the module.
        layers: Number of decoder layers of the router itself.

    Parameters are named ``layers.<i>.<the stock layer's names>``, ``norm.weight``, ``layer_tokens`` [M, H] and
    ``head.weight`` [1, H].
    """

    def __init__(
        self, spec: ModelSpec, text_config: PretrainedConfig, attention: AttentionKind = "causal", layers: int = 1
    ) -> None:
        super().__init__()
        if attention not in get_args(AttentionKind):
            raise InputInvalid(
                "unknown attention of the router", got=attention, wanted=" or ".join(get_args(AttentionKind))
            )
        if layers < 1:
            raise InputInvalid("a router has at least one layer", got=layers, wanted="1 or more")
        self.attention: AttentionKind = attention
        self.image_tokens = spec.image_tokens
        self.config = _router_config(text_config, layers)
        stock = AutoModel.from_config(self.config, dtype=torch.float32)
        self.layers: nn.ModuleList = stock.layers
        self.norm: nn.Module = stock.norm
        self.rotary: nn.Module = stock.rotary_emb
        # PAR's code starts the layer tokens at zero. RMSNorm(0) = 0, so they would all tie, where the norm is at its
        # steepest (slope 1/sqrt(eps)); a small draw avoids both.
        self.layer_tokens = nn.Parameter(torch.empty(text_config.num_hidden_layers, text_config.hidden_size))
        self.head = nn.Linear(text_config.hidden_size, 1, bias=False)
        nn.init.normal_(self.layer_tokens, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    @property
    def model_layers(self) -> int:
        """M, the number of layers it scores."""
        return self.layer_tokens.shape[0]

    def forward(self, embeddings: Tensor, prompt: PromptBatch) -> Scores:
        """Scores one batch.

        Args:
            embeddings: [B, P + N + S, H], the model's input rows ``[prefix | V | suffix]``.
            prompt: The ids behind them; only P and the suffix lengths are read.

        Raises:
            InputInvalid: The rows are not P + N + S.
        """
        rows, lengths = embeddings.shape[1], prompt.suffix_lengths.to(embeddings.device)
        prefix = prompt.prefix_ids.shape[1]
        expected = prefix + self.image_tokens + prompt.suffix_ids.shape[1]
        if rows != expected:
            raise InputInvalid(
                "embeddings are not [prefix | V | suffix]", got=f"{rows} rows", wanted=f"{expected} rows"
            )
        tokens = self.layer_tokens.to(embeddings.dtype).expand(embeddings.shape[0], -1, -1)
        hidden = torch.cat([embeddings, tokens], dim=1)
        ends = prefix + self.image_tokens + lengths  # rows before the padding, [B]
        positions = _positions(rows, self.model_layers, ends)
        mask = self._mask(rows, ends, hidden)
        rotation = self.rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotation)
        scores = self._scores(hidden)
        return Scores(scores[:, prefix : prefix + self.image_tokens], scores[:, rows:])

    def _scores(self, hidden: Tensor) -> Tensor:
        # Half-precision logits tie: they leave the low-precision world before the head, also under autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(self.norm(hidden).float(), self.head.weight.float()).squeeze(-1)

    def _mask(self, rows: int, ends: Tensor, hidden: Tensor) -> Tensor:
        """Returns the additive mask [B, 1, Q, Q]."""
        every = torch.arange(rows + self.model_layers, device=hidden.device)
        real = (every < ends[:, None]) | (every >= rows)  # [B, Q]: all but the padding
        seen = real[:, None, :]
        if self.attention == "causal":
            seen = seen & (every[None, :] <= every[:, None])
        mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None]
        return mask.expand(hidden.shape[0], 1, len(every), len(every))


def copy_model_layers(router: MetaRouter, layers: Sequence[nn.Module]) -> None:
    """Starts the router's layers, in place, from the model's first ones, which already read the same rows."""
    for own, other in zip(router.layers, layers, strict=False):
        own.load_state_dict({name: value.detach().float() for name, value in other.state_dict().items()})


def _router_config(text_config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """Returns the model's text config, cut to the router's own layers and without a vocabulary."""
    config = copy.deepcopy(text_config)
    config.num_hidden_layers = layers
    config.vocab_size = 1  # the stock model makes an embedding table that is thrown away at once
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = ["full_attention"] * layers
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the documented switch has no public setter on a config
    return config


def _positions(rows: int, layer_tokens: int, ends: Tensor) -> Tensor:
    """Returns positions [B, rows + M]: layer token j follows the last real row; padding keeps its row's number."""
    prompt = torch.arange(rows, device=ends.device).expand(len(ends), -1)
    return torch.cat([prompt, ends[:, None] + torch.arange(layer_tokens, device=ends.device)], dim=1)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns standard Gumbel noise of the shape, dtype and device of ``like``."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
