"""A model that removes for real, eagerly: dropped tokens leave the sequence, skipped layers are not run.

The reference semantics of pruning in PyTorch: router training scores decisions with it, and the exported graphs are
verified against it. Its layers are those of the loaded stock model.

Layers below K see ``[prefix | N image tokens | suffix]``; at K the image tokens outside the keep indices leave the
sequence for good. Two clocks run from there: a token's *position* (rotary angle) counts the unpruned prompt, its *slot*
counts the rows that are really held. A row of a batch runs only its own kept layers and holds no KV for the
others. Suffixes are padded on the right: being causal, no real token sees padding, and decoding masks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allrounder.errors import InputInvalid, InvalidBudget, PromptTooLong
from allrounder.versions import Budget, check_decision
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch

__all__ = ["PrunedModel", "PruningDecision", "State", "full_decision", "layer_mask"]


class PruningDecision(NamedTuple):
    """Which image tokens and which layers are kept, for B rows.

    All rows keep equally many tokens; kept layers may differ from row to row, in number as well.
    """

    keep: Tensor  # int64 [B, T], each row ascending without repeats
    kept_layers: tuple[int, ...] | Tensor  # ascending, for all rows; or bool [B, M]
    prune_layer: int  # K; layers 0..K-1 are always kept


@dataclass(slots=True)
class State:
    """A prompt that was read, ready for new tokens. `PrunedModel.decode` advances it."""

    logits: Tensor  # [B, V], of each row's last prompt token
    suffix_hidden: Tensor  # [B, S, H], final norm applied; `PrunedModel.head` makes logits of it
    layer_mask: Tensor  # bool [B, M], the kept layers
    prune_layer: int
    positions: Tensor  # int64 [B], of the next token: rows of the unpruned prompt and of what followed
    valid_all: Tensor  # bool [B, C], which cache rows of the layers below K are not padding
    valid_kept: Tensor  # bool [B, C'], the same for the layers from K on
    cache: _Cache  # keys and values per layer


@dataclass(slots=True)
class _Cache:
    """Keys and values per layer, with the one method that the stock attention modules call."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [rows that keep it, G, C, D]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self.layers[layer] = (keys, values)
        return keys, values


class _Rows(NamedTuple):
    """What a layer gets beside the hidden states."""

    cosine: Tensor  # [B, rows, D]
    sine: Tensor  # [B, rows, D]
    mask: Tensor  # [1 or B, 1, rows, keys], added to attention scores

    def of(self, rows: Tensor) -> _Rows:
        """Returns the given batch rows only."""
        return _Rows(self.cosine[rows], self.sine[rows], self.mask if len(self.mask) == 1 else self.mask[rows])


class PrunedModel:
    """The removing model. Runs without gradients; the model's weights are shared, not copied."""

    def __init__(self, vlm: LoadedModel) -> None:
        self.spec = vlm.spec
        self._model: Any = vlm.model
        decoder: Any = self._model.model.language_model
        self._embed: nn.Module = decoder.embed_tokens
        self._layers: nn.ModuleList = decoder.layers
        self._norm: nn.Module = decoder.norm
        self._rotary: nn.Module = decoder.rotary_emb

    @torch.no_grad()
    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Returns the image tokens [B, N, H] of preprocessed images [B, 3, size, size], by the stock code."""
        features: Any = self._model.get_image_features(pixel_values.to(self._model.dtype))
        return torch.stack(list(features.pooler_output))

    @torch.no_grad()
    def embeddings(self, image_embeds: Tensor, prompt: PromptBatch) -> Tensor:
        """Returns the prompt's embeddings [B, P + N + S, H]; one image or one prompt serves for B of the other.

        Raises:
            InputInvalid: The image tokens are not those of this model, or not as many rows as prompts.
        """
        batch = max(len(image_embeds), len(prompt.suffix_ids))
        wanted = (self.spec.image_tokens, self.spec.decoder.hidden)
        if image_embeds.shape[1:] != wanted or {len(image_embeds), len(prompt.suffix_ids)} - {1, batch}:
            raise InputInvalid(
                "image tokens and prompts do not fit", got=list(image_embeds.shape), wanted=[batch, *wanted]
            )
        prompt = _repeated(prompt, batch)
        before, after = self._embed(prompt.prefix_ids), self._embed(prompt.suffix_ids)
        return torch.cat([before, image_embeds.to(before.dtype).expand(batch, -1, -1), after], dim=1)

    @torch.no_grad()
    def head(self, hidden: Tensor) -> Tensor:
        """Returns logits [..., V] of normed hidden states [..., H]."""
        return self._model.lm_head(hidden)

    @torch.no_grad()
    def prefill(self, image_embeds: Tensor, prompt: PromptBatch, decision: PruningDecision) -> State:
        """Reads B prompts, or one, with ``image_embeds`` [B or 1, N, H], under decisions for B rows.

        One prompt may be given with decisions for many rows: what is before the gather is then computed once.

        Returns:
            The state, its logits those of each row's last prompt token.

        Raises:
            InvalidBudget: The decision does not fit the model.
            PromptTooLong: The unpruned prompt is longer than the model's positions reach.
        """
        mask = self._checked(decision)
        cache = _Cache()
        embeddings = self.embeddings(image_embeds, prompt)
        self._check_length(embeddings.shape[1])
        hidden, positions = self._below(embeddings, decision.prune_layer, cache)
        if len(hidden) not in (1, len(mask)):
            raise InputInvalid("as many decisions as prompts", got=f"{len(mask)} decisions", wanted=f"{len(hidden)}")
        prompt = _repeated(prompt, len(mask))
        hidden, positions = hidden.expand(len(mask), -1, -1), positions.expand(len(mask), -1)
        for layer, (keys, values) in cache.layers.items():
            cache.layers[layer] = (keys.expand(len(mask), -1, -1, -1), values.expand(len(mask), -1, -1, -1))
        hidden, positions = self._gathered(hidden, positions, decision.keep, prompt.prefix_ids.shape[1])
        rows = self._rows(hidden, positions, _causal(hidden))
        hidden = self._run(hidden, rows, mask, range(decision.prune_layer, self.spec.decoder.layers), cache)
        suffix = self._norm(hidden[:, -prompt.suffix_ids.shape[1] :])
        last = suffix[torch.arange(len(suffix), device=suffix.device), prompt.suffix_lengths - 1]
        before = prompt.prefix_ids.shape[1]
        return State(
            logits=self.head(last),
            suffix_hidden=suffix,
            layer_mask=mask,
            prune_layer=decision.prune_layer,
            positions=before + self.spec.image_tokens + prompt.suffix_lengths,
            valid_all=_valid(prompt, before + self.spec.image_tokens),
            valid_kept=_valid(prompt, before + decision.keep.shape[1]),
            cache=cache,
        )

    @torch.no_grad()
    def decode(self, state: State, ids: Tensor) -> Tensor:
        """Reads S more tokens per row, ``ids`` int64 [B, S], and advances the state.

        Returns:
            Logits [B, S, V] of every new token.

        Raises:
            PromptTooLong: The answer grew longer than the model's positions reach.
        """
        steps = ids.shape[1]
        self._check_length(int(state.positions.max()) + steps)
        hidden = self._embed(ids)
        positions = state.positions[:, None] + torch.arange(steps, device=ids.device)
        new = torch.ones_like(ids, dtype=torch.bool)
        state.valid_all = torch.cat([state.valid_all, new], dim=1)
        state.valid_kept = torch.cat([state.valid_kept, new], dim=1)
        depth, gather = self.spec.decoder.layers, state.prune_layer
        for valid, layers in ((state.valid_all, range(gather)), (state.valid_kept, range(gather, depth))):
            rows = self._rows(hidden, positions, _causal(hidden, valid))
            hidden = self._run(hidden, rows, state.layer_mask, layers, state.cache)
        state.positions = state.positions + steps
        return self.head(self._norm(hidden))

    @torch.no_grad()
    def score(self, image_embeds: Tensor, prompt: PromptBatch, decision: PruningDecision, answer_ids: Tensor) -> Tensor:
        """Returns the logits along given answers, in one pass (teacher forcing).

        Meant for one prompt and the decisions of many rows: layers below K then run once for all. The
        ``answer_ids`` are int64 [A], one answer for all rows, or [B or 1, A].

        Returns:
            [B, A, V]; element j holds the logits from which ``answer_ids[:, j]`` would have been drawn.
        """
        answers = answer_ids.reshape(-1, answer_ids.shape[-1]).expand(len(prompt.suffix_ids), -1)
        state = self.prefill(image_embeds, _appended(prompt, answers[:, :-1]), decision)
        length, count = prompt.suffix_lengths.expand(len(state.layer_mask)), answers.shape[1]
        places = (length - 1)[:, None] + torch.arange(count, device=answers.device)
        picked = state.suffix_hidden.gather(1, places[..., None].expand(-1, -1, self.spec.decoder.hidden))
        return self.head(picked)

    @torch.no_grad()
    def greedy(self, state: State, new_tokens: int, stop_ids: Sequence[int] = ()) -> Tensor:
        """Returns greedy answers, int64 [B, up to new_tokens], until every row has met a stop id.

        What follows a row's first stop id is to be ignored. Advances the state.
        """
        stops = torch.tensor(tuple(stop_ids), dtype=torch.int64, device=state.logits.device)
        token = state.logits.argmax(dim=-1, keepdim=True)
        tokens = [token]
        stopped = torch.isin(token, stops)
        while len(tokens) < new_tokens and not bool(stopped.all()):
            token = self.decode(state, token)[:, -1].argmax(dim=-1, keepdim=True)
            tokens.append(token)
            stopped = stopped | torch.isin(token, stops)
        return torch.cat(tokens, dim=1)

    def _checked(self, decision: PruningDecision) -> Tensor:
        """Returns the kept layers as bool [B, M]."""
        decoder, tokens, batch = self.spec.decoder, self.spec.image_tokens, len(decision.keep)
        mask = layer_mask(decision.kept_layers, batch, decoder.layers).to(decision.keep.device)
        for kept in mask.sum(dim=1).unique().tolist():
            budget = Budget(decision.keep.shape[1], kept)
            check_decision(budget, tokens=tokens, layers=decoder.layers, prune_layer=decision.prune_layer)
        if not bool(mask[:, : decision.prune_layer].all()):
            raise InvalidBudget(
                "a layer below the prune layer is skipped", got=decision.kept_layers, where="kept_layers"
            )
        ascending = bool((decision.keep.diff(dim=1) > 0).all())
        if not ascending or int(decision.keep.min()) < 0 or int(decision.keep.max()) >= tokens:
            raise InvalidBudget("not the keep indices", where="keep", wanted=f"ascending indices below {tokens}")
        return mask

    def _check_length(self, rows: int) -> None:
        # Up to here no sliding window binds (see `allrounder.vlm.spec`); beyond it the stock model means nothing.
        if rows > self.spec.decoder.max_positions:
            raise PromptTooLong(
                "longer than the model's positions reach", got=rows, wanted=f"at most {self.spec.decoder.max_positions}"
            )

    def _below(self, hidden: Tensor, prune_layer: int, cache: _Cache) -> tuple[Tensor, Tensor]:
        """Runs the layers before the gather on all rows; returns hidden states and positions [1, rows]."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rows = self._rows(hidden, positions, _causal(hidden))
        everything = torch.ones(len(hidden), self.spec.decoder.layers, dtype=torch.bool, device=hidden.device)
        return self._run(hidden, rows, everything, range(prune_layer), cache), positions

    def _gathered(self, hidden: Tensor, positions: Tensor, keep: Tensor, before: int) -> tuple[Tensor, Tensor]:
        """Returns hidden states and positions without the dropped image tokens; text rows stay as they are."""
        total, tokens = hidden.shape[1], self.spec.image_tokens
        text = torch.arange(total, device=keep.device)[None].expand(len(keep), -1)
        kept = torch.cat([text[:, :before], before + keep, text[:, before + tokens :]], dim=1)
        return hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[2])), positions.gather(1, kept)

    def _rows(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> _Rows:
        cosine, sine = self._rotary(hidden, position_ids=positions)
        return _Rows(cosine, sine, mask)

    def _run(self, hidden: Tensor, rows: _Rows, mask: Tensor, layers: range, cache: _Cache) -> Tensor:
        """Runs layers; each only on the batch rows that keep it."""
        for index in layers:
            wanted = mask[:, index]
            if bool(wanted.all()):
                hidden = self._layer(index, hidden, rows, cache)
            elif bool(wanted.any()):
                chosen = wanted.nonzero()[:, 0]
                hidden = hidden.index_copy(0, chosen, self._layer(index, hidden[chosen], rows.of(chosen), cache))
        return hidden

    def _layer(self, index: int, hidden: Tensor, rows: _Rows, cache: _Cache) -> Tensor:
        return self._layers[index](
            hidden,
            attention_mask=rows.mask,
            position_embeddings=(rows.cosine, rows.sine),
            **{CACHE: cache},
            use_cache=True,
        )


def full_decision(vlm: LoadedModel, batch: int = 1, prune_layer: int = 0) -> PruningDecision:
    """Returns the decision that keeps everything: the unpruned model."""
    keep = torch.arange(vlm.spec.image_tokens, device=vlm.model.device).expand(batch, -1)
    return PruningDecision(keep, tuple(range(vlm.spec.decoder.layers)), prune_layer)


def layer_mask(kept: tuple[int, ...] | Tensor, batch: int, layers: int) -> Tensor:
    """Returns the kept layers as bool [batch, layers].

    Raises:
        InvalidBudget: Layers that do not exist, in no ascending order, or a mask of another shape.
    """
    if isinstance(kept, Tensor):
        if kept.shape != (batch, layers) or kept.dtype != torch.bool:
            wanted = f"bool [{batch}, {layers}]"
            raise InvalidBudget(
                "not a mask of layers", where="kept_layers", got=f"{kept.dtype} {list(kept.shape)}", wanted=wanted
            )
        return kept
    if list(kept) != sorted(set(kept)) or not set(kept) <= set(range(layers)):
        raise InvalidBudget(
            "not the kept layers", where="kept_layers", got=kept, wanted=f"ascending indices below {layers}"
        )
    mask = torch.zeros(layers, dtype=torch.bool)
    mask[list(kept)] = True
    return mask.expand(batch, -1)


def _causal(hidden: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns what is added to attention scores: [1 or B, 1, rows, keys], 0 where seen and very negative elsewhere.

    ``hidden`` [B, rows, H] are the newest rows; ``valid`` bool [B, keys] says which keys are not padding, None: the
    keys are the rows.
    """
    rows = hidden.shape[1]
    keys = rows if valid is None else valid.shape[1]
    seen = torch.ones(rows, keys, dtype=torch.bool, device=hidden.device).tril(keys - rows)[None]
    if valid is not None:
        seen = seen & valid[:, None]
    closed = torch.finfo(hidden.dtype).min
    return torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~seen, closed)[:, None]


def _valid(prompt: PromptBatch, before: int) -> Tensor:
    """Returns bool [B, before + S]: which rows are not padding, with ``before`` rows ahead of the suffix."""
    counted = torch.arange(before + prompt.suffix_ids.shape[1], device=prompt.suffix_lengths.device)
    return counted < before + prompt.suffix_lengths[:, None]


def _repeated(prompt: PromptBatch, batch: int) -> PromptBatch:
    """Returns one prompt as ``batch`` rows; as many as that are returned as they are."""
    prefix, suffix, lengths = prompt
    return PromptBatch(prefix.expand(batch, -1), suffix.expand(batch, -1), lengths.expand(batch))


def _appended(prompt: PromptBatch, answers: Tensor) -> PromptBatch:
    """Returns prompts with answers [B, A] right behind each row's suffix, padding at the end again."""
    batch, count = answers.shape
    free_slots = answers.new_zeros(batch, count)
    places = prompt.suffix_lengths[:, None] + torch.arange(count, device=answers.device)
    joined = torch.cat([prompt.suffix_ids, free_slots], dim=1).scatter(1, places, answers)
    return PromptBatch(prompt.prefix_ids, joined, prompt.suffix_lengths + count)
