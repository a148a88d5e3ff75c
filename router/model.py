"""The meta-router: one small decoder that scores image tokens and decoder layers.

It is stock decoder layers of the model's own family and shape, learnable layer tokens, final norm, a linear head.
Scores are float32 rank logits. Budgets are not known here (see `selection`).

Input rows are the prompt's, padded on the right, and M layer tokens; positions count without the padding, so that a
padded row gives what it gives alone. With ``attention="causal"`` (the code of PAR, ICCV 2025) rows see those before
them, with ``"bidirectional"`` all. With ``scope="prompt"`` an image token sees what attention lets it see of the whole
prompt; with ``"image"`` tokens of its own image alone, and its position counts from 0 there, so that its scores are the
same in every prompt. Layer tokens see the whole prompt in either scope.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig

from allrounder.errors import InputInvalid
from allrounder.vlm.prompt import PromptBatch, real_rows, rope_positions
from allrounder.vlm.spec import ModelSpec

__all__ = ["AttentionKind", "MetaRouter", "Scope", "Scores", "copy_model_layers", "gumbel"]

AttentionKind = Literal["causal", "bidirectional"]
Scope = Literal["prompt", "image"]


class Scores(NamedTuple):
    """Rank logits, of which only the order counts.

    ``token_scores`` float32 [B, N], -inf where a row has fewer image tokens; ``layer_scores`` float32 [B, M].
    """

    token_scores: Tensor
    layer_scores: Tensor


class MetaRouter(nn.Module):
    """Scores the image tokens and decoder layers of one model.

    Args:
        spec: The model; gives N of an image.
        text_config: The model's text config; gives family, width and M. It is copied.
        attention: Who sees whom, see the module.
        layers: Number of decoder layers of the router itself.
        scope: What an image token sees, see the module.

    Parameters are named ``layers.<i>.<the stock layer's names>``, ``norm.weight``, ``layer_tokens`` [M, H] and
    ``head.weight`` [1, H].
    """

    def __init__(
        self,
        spec: ModelSpec,
        text_config: PretrainedConfig,
        attention: AttentionKind = "causal",
        layers: int = 1,
        scope: Scope = "prompt",
    ) -> None:
        super().__init__()
        for name, given, kinds in (("attention", attention, AttentionKind), ("scope", scope, Scope)):
            if given not in get_args(kinds):
                raise InputInvalid(f"unknown {name} of the router", got=given, wanted=" or ".join(get_args(kinds)))
        if layers < 1:
            raise InputInvalid("a router has at least one layer", got=layers, wanted="1 or more")
        self.attention: AttentionKind = attention
        self.scope: Scope = scope
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
            embeddings: [B, R, H], the model's input rows.
            prompt: B prompts; their ids are not read.

        Raises:
            InputInvalid: The rows are not the prompt's.
        """
        prompt = prompt.to(embeddings.device)
        if embeddings.shape[:2] != prompt.input_ids.shape:
            wanted = list(prompt.input_ids.shape)
            raise InputInvalid("embeddings are not the prompt's rows", got=list(embeddings.shape[:2]), wanted=wanted)
        rows = embeddings.shape[1]
        tokens = self.layer_tokens.to(embeddings.dtype).expand(len(embeddings), -1, -1)
        hidden = torch.cat([embeddings, tokens], dim=1)
        owner = _owners(prompt) if self.scope == "image" else None
        positions = rope_positions(_positions(prompt, self.model_layers, owner))
        mask = self._mask(prompt, owner, hidden)
        rotation = self.rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotation)
        scores = self._scores(hidden)
        token_scores = scores.gather(1, prompt.image_index.clamp_min(0)).masked_fill(prompt.image_index < 0, -torch.inf)
        return Scores(token_scores, scores[:, rows:])

    def _scores(self, hidden: Tensor) -> Tensor:
        # Half-precision logits tie: they leave the low-precision world before the head, also under autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(self.norm(hidden).float(), self.head.weight.float()).squeeze(-1)

    def _mask(self, prompt: PromptBatch, owner: Tensor | None, hidden: Tensor) -> Tensor:
        """Returns the additive mask [B, 1, Q, Q]."""
        every = torch.arange(hidden.shape[1], device=hidden.device)
        real = nn.functional.pad(real_rows(prompt), (0, self.model_layers), value=True)  # [B, Q]: all but the padding
        seen = real[:, None, :]
        if self.attention == "causal":
            seen = seen & (every[None, :] <= every[:, None])
        if owner is not None:
            owner = nn.functional.pad(owner, (0, self.model_layers), value=-1)
            seen = seen & ((owner[:, :, None] == owner[:, None, :]) | (owner < 0)[:, :, None])
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


def _owners(prompt: PromptBatch) -> Tensor:
    """Returns int64 [B, R]: whose image token a row is, -1 where it is none."""
    batch, rows = prompt.input_ids.shape
    places = prompt.image_index.where(prompt.image_index >= 0, rows)
    return prompt.image_of.new_full((batch, rows + 1), -1).scatter(1, places, prompt.image_of)[:, :rows]


def _positions(prompt: PromptBatch, layer_tokens: int, owner: Tensor | None) -> Tensor:
    """Returns positions [A, B, R + M]: layer token j follows the prompt; image tokens count from 0 where ``owner``."""
    own = prompt.position_ids
    if owner is not None:
        for image in range(int(prompt.image_of.max()) + 1 if prompt.image_of.numel() else 0):
            tokens = owner == image
            first = own.masked_fill(~tokens, torch.iinfo(own.dtype).max).amin(dim=2, keepdim=True)
            own = torch.where(tokens, own - first, own)
    follow = prompt.next_position[:, None] + torch.arange(layer_tokens, device=own.device)
    return torch.cat([own, follow.expand(len(own), -1, -1)], dim=2)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns standard Gumbel noise of the shape, dtype and device of ``like``."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
