"""A model that removes for real, eagerly: dropped tokens leave the sequence, skipped layers are not run.

The reference semantics of pruning in PyTorch: router training scores decisions with it, and the exported graphs are
verified against it. Its layers are those of the loaded stock model.

Layers below K see the whole prompt; at K the image tokens outside the keep indices leave the sequence for good. Two
clocks run from there: a token's *position* (rotary angle) counts the unpruned prompt, its *slot* counts the rows that
are really held. A row of a batch runs only its own kept layers and holds no KV for the others. Prompts are ragged and
padded on the right: being causal, no real token sees padding, and decoding masks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allrounder.errors import InputInvalid, InvalidBudget, PromptTooLong
from allrounder.images.planning import Extent
from allrounder.versions import Budget, check_decision
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch, kept_rows, real_rows, rope_positions
from allrounder.vlm.spec import ModelSpec

__all__ = ["PrunedModel", "PruningDecision", "State", "full_decision", "layer_mask"]


class PruningDecision(NamedTuple):
    """Which image tokens and which layers are kept, for B rows; both may differ from row to row, in number as well."""

    keep: Tensor  # int64 [B, T] into the row's image tokens, ascending without repeats, padded with -1 at the end
    kept_layers: tuple[int, ...] | Tensor  # ascending, for all rows; or bool [B, M]
    prune_layer: int  # K; layers 0..K-1 are always kept


@dataclass(slots=True)
class State:
    """A prompt that was read, ready for new tokens. `PrunedModel.decode` advances it."""

    logits: Tensor  # [B, V], of each row's last prompt token
    hidden: Tensor  # [B, R', H] of the rows that stayed, final norm applied; `PrunedModel.head` makes logits of it
    layer_mask: Tensor  # bool [B, M], the kept layers
    prune_layer: int
    next_position: Tensor  # int64 [B], of the next token: counts the unpruned prompt and what followed
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
        decoder = vlm.decoder
        self._embed: nn.Module = decoder.embed_tokens
        self._layers: nn.ModuleList = decoder.layers
        self._norm: nn.Module = decoder.norm
        self._rotary: nn.Module = decoder.rotary_emb

    @torch.no_grad()
    def image_embeds(self, pixel_values: Tensor, sizes: Sequence[Extent] = ()) -> Tensor:
        """Returns the image tokens [N, H] of one prompt's images, one after another, by the stock code.

        Args:
            pixel_values: Tiles [tiles, 3, S, S], as `allrounder.images.pixels` makes them of images.
            sizes: Height and width of each image; not needed where an image is one tile.
        """
        stock = FAMILIES[self.spec.model_type].image_embeds
        return stock(self._model, pixel_values.to(self._model.device, self._model.dtype), sizes)

    @torch.no_grad()
    def embeddings(self, image_embeds: Tensor, prompt: PromptBatch) -> Tensor:
        """Returns the prompt's embeddings [B, R, H]; one row of image tokens or one prompt serves for B of the other.

        Args:
            image_embeds: [B or 1, N, H], a row's images one after another.
            prompt: B prompts, or 1.

        Raises:
            InputInvalid: The image tokens are not those of this model, or not those of the prompts.
        """
        batch = max(len(image_embeds), len(prompt.input_ids))
        wanted = (prompt.image_index.shape[1], self.spec.decoder.hidden)
        if image_embeds.shape[1:] != wanted or {len(image_embeds), len(prompt.input_ids)} - {1, batch}:
            raise InputInvalid(
                "image tokens and prompts do not fit", got=list(image_embeds.shape), wanted=[batch, *wanted]
            )
        prompt = prompt.repeated(batch)
        rows = self._embed(prompt.input_ids)
        places = prompt.image_index.where(prompt.image_index >= 0, rows.shape[1])[..., None].expand(-1, -1, wanted[1])
        tokens = image_embeds.to(rows.dtype).expand(batch, -1, -1)
        return nn.functional.pad(rows, (0, 0, 0, 1)).scatter(1, places, tokens)[:, :-1]

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
            InvalidBudget: The decision does not fit the model or the prompts.
            PromptTooLong: The unpruned prompt is longer than the model's positions reach.
        """
        embeddings = self.embeddings(image_embeds, prompt)
        self._check_length(prompt.next_position)
        batch = len(decision.keep)
        if len(embeddings) not in (1, batch):
            raise InputInvalid("as many decisions as prompts", got=f"{batch} decisions", wanted=f"{len(embeddings)}")
        whole = prompt.repeated(batch)
        mask, cache = self._checked(decision, whole), _Cache()
        hidden = self._below(embeddings, prompt, decision.prune_layer, cache).expand(batch, -1, -1)
        for layer, (keys, values) in cache.layers.items():
            cache.layers[layer] = (keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1))
        order, kept = kept_rows(whole, decision.keep)
        hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[2]))
        rows = self._rows(hidden, kept.position_ids, _causal(hidden))
        hidden = self._run(hidden, rows, mask, range(decision.prune_layer, self.spec.decoder.layers), cache)
        hidden = self._norm(hidden)
        return State(
            logits=self.head(hidden[torch.arange(batch, device=hidden.device), kept.lengths - 1]),
            hidden=hidden,
            layer_mask=mask,
            prune_layer=decision.prune_layer,
            next_position=kept.next_position,
            valid_all=real_rows(whole),
            valid_kept=real_rows(kept),
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
        positions = state.next_position[:, None] + torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.extend(state, self._embed(ids), positions[None]))

    @torch.no_grad()
    def extend(self, state: State, hidden: Tensor, position_ids: Tensor) -> Tensor:
        """Reads S more rows per row of the batch, given as embeddings, and advances the state.

        Args:
            state: From `prefill`; changed in place.
            hidden: [B, S, H].
            position_ids: int64 [1 or A, B, S]; the next token's position follows the last.

        Returns:
            [B, S, H], final norm applied.

        Raises:
            PromptTooLong: The rows grew longer than the model's positions reach.
        """
        after = position_ids.amax(dim=(0, 2)) + 1
        self._check_length(after)
        new = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        state.valid_all = torch.cat([state.valid_all, new], dim=1)
        state.valid_kept = torch.cat([state.valid_kept, new], dim=1)
        depth, gather = self.spec.decoder.layers, state.prune_layer
        for valid, layers in ((state.valid_all, range(gather)), (state.valid_kept, range(gather, depth))):
            rows = self._rows(hidden, position_ids, _causal(hidden, valid))
            hidden = self._run(hidden, rows, state.layer_mask, layers, state.cache)
        state.next_position = after
        return self._norm(hidden)

    @torch.no_grad()
    def score(self, image_embeds: Tensor, prompt: PromptBatch, decision: PruningDecision, answer_ids: Tensor) -> Tensor:
        """Returns the logits along given answers, in one pass (teacher forcing).

        Meant for one prompt and the decisions of many rows: layers below K then run once for all. The
        ``answer_ids`` are int64 [A], one answer for all rows, or [B or 1, A].

        Returns:
            [B, A, V]; element j holds the logits from which ``answer_ids[:, j]`` would have been drawn.
        """
        answers = answer_ids.reshape(-1, answer_ids.shape[-1]).expand(len(prompt.input_ids), -1)
        state, count = self.prefill(image_embeds, prompt.appended(answers[:, :-1]), decision), answers.shape[1]
        first = state.valid_kept.sum(dim=1, keepdim=True) - count
        places = first + torch.arange(count, device=answers.device)
        return self.head(state.hidden.gather(1, places[..., None].expand(-1, -1, self.spec.decoder.hidden)))

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

    def _checked(self, decision: PruningDecision, prompt: PromptBatch) -> Tensor:
        """Returns the kept layers as bool [B, M]."""
        decoder, keep = self.spec.decoder, decision.keep
        mask = layer_mask(decision.kept_layers, len(keep), decoder.layers).to(keep.device)
        for layers in {int(count) for count in mask.sum(dim=1)}:
            check_decision(Budget(1, layers), tokens=1, layers=decoder.layers, prune_layer=decision.prune_layer)
        if not bool(mask[:, : decision.prune_layer].all()):
            raise InvalidBudget(
                "a layer before the gather is not kept",
                where="kept_layers",
                wanted=f"layers 0 to {decision.prune_layer - 1}",
            )
        _check_keep(keep, prompt.image_of)
        return mask

    def _check_length(self, positions: Tensor) -> None:
        # Up to here no sliding window binds (see `allrounder.vlm.spec`); beyond it the stock model means nothing.
        limit, rows = self.spec.decoder.max_positions, int(positions.max())
        if rows > limit:
            raise PromptTooLong("longer than the model's positions reach", got=rows, wanted=f"at most {limit}")

    def _below(self, hidden: Tensor, prompt: PromptBatch, prune_layer: int, cache: _Cache) -> Tensor:
        """Runs the layers before the gather on all rows."""
        rows = self._rows(hidden, prompt.repeated(len(hidden)).position_ids, _causal(hidden))
        everything = torch.ones(len(hidden), self.spec.decoder.layers, dtype=torch.bool, device=hidden.device)
        return self._run(hidden, rows, everything, range(prune_layer), cache)

    def _rows(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> _Rows:
        cosine, sine = self._rotary(hidden, position_ids=rope_positions(positions))
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


def full_decision(spec: ModelSpec, prompt: PromptBatch, prune_layer: int = 0) -> PruningDecision:
    """Returns the decision that keeps everything of B prompts: the unpruned model."""
    tokens = torch.arange(prompt.image_of.shape[1], device=prompt.image_of.device)
    return PruningDecision(tokens.where(prompt.image_of >= 0, -1), tuple(range(spec.decoder.layers)), prune_layer)


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


def _check_keep(keep: Tensor, image_of: Tensor) -> None:
    """Checks that keep indices [B, T] are those of image tokens [B, N], of each image at least one."""
    there, tokens = keep >= 0, (image_of >= 0).sum(dim=1, keepdim=True)
    ascending = (keep[:, 1:] > keep[:, :-1]) & there[:, :-1] | ~there[:, 1:]
    if keep.dtype != torch.int64 or not bool(ascending.all()) or bool(((keep < -1) | (keep >= tokens)).any()):
        raise InvalidBudget(
            "not the keep indices",
            where="keep",
            wanted="int64 [B, T], ascending indices into each row's image tokens, padded with -1 at the end",
        )
    owners = image_of.gather(1, keep.clamp_min(0)).where(there, -1)
    for image in range(int(image_of.max()) + 1 if image_of.numel() else 0):
        if not torch.equal((owners == image).any(dim=1), (image_of == image).any(dim=1)):
            raise InvalidBudget(
                "an image of which nothing is kept", where=f"keep, image {image}", wanted="at least one token of each"
            )
