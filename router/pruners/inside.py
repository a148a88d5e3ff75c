"""FastV, DART (tokens) and ShortGPT (layers), from their papers: they run the frozen model's own layers.

FastV and DART run no layer that pruning could have saved: the layers below K (FastV at K=0: the attention of layer 0).
Padding is at the end of causal rows, so no real row sees it; what padding itself becomes is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from allrounder.errors import CalibrationError
from allrounder.router.gated import attending
from allrounder.router.pruners.setting import LayerPruner, Setting, TokenPruner, View, check_view, scores_of
from allrounder.router.selection import ranking
from allrounder.vlm.model import LoadedModel

__all__ = ["PIVOTS", "block_influence", "dart", "fastv", "shortgpt"]

PIVOTS = 4  # of DART: so many image ones and as many of the text


class _Rows(NamedTuple):
    """``hidden`` [B, R, H] before a layer, and what every layer is called with."""

    hidden: Tensor
    mask: Tensor  # [1, 1, R, R], added to attention scores
    rotation: tuple[Tensor, Tensor]


def fastv(setting: Setting) -> TokenPruner:
    """Returns FastV (Chen et al., ECCV 2024): the attention that each image token gets.

    The mean over heads of what the prompt's last row pays to each image token in layer K-1, the last one that sees
    them all; with K=0, where the paper has no rule, in layer 0.

    Deviations: the paper describes the mean over all rows that attend to a token; the last row alone is how FastV is
    commonly run and compared with, and it is the row that predicts the answer.
    """

    @torch.no_grad()
    def scores(view: View) -> Tensor:
        vlm, layer = setting.vlm, max(setting.prune_layer, 1) - 1
        weights = _attention(vlm, _rows_before(vlm, view, layer), layer)
        start, tokens = view.prompt.prefix_ids.shape[1], vlm.spec.image_tokens
        last = start + tokens + view.prompt.suffix_lengths.to(weights.device) - 1
        paid = weights[torch.arange(len(weights), device=weights.device), :, last]  # [B, heads, R]
        return paid[..., start : start + tokens].float().mean(dim=1)

    return scores


def dart(setting: Setting) -> TokenPruner:
    """Returns DART (Wen et al., EMNLP 2025): duplicates of a few pivot tokens leave.

    Pivots are the `PIVOTS` image tokens and the `PIVOTS` text rows whose keys in layer K are longest. Image pivots
    are kept first; then the pivots take turns, each adding the token whose hidden state before layer K has the smallest
    cosine with its own.

    Deviations: the paper fixes T first and lets each pivot take its whole share at once; taking turns gives each pivot
    the same share at every T, which makes one nested order. The key's length is Euclidean over all kv heads, which the
    rotary embedding leaves as it is. Text pivots are taken from all text rows, the template's included.
    """

    @torch.no_grad()
    def scores(view: View) -> Tensor:
        vlm = setting.vlm
        rows = _rows_before(vlm, view, setting.prune_layer)
        return scores_of(_dart_order(vlm, view, rows.hidden, _key_norms(vlm, rows.hidden, setting.prune_layer)))

    return scores


def shortgpt(setting: Setting) -> LayerPruner:
    """Returns ShortGPT (Men et al., 2024, arXiv 2403.03853): layers that hardly turn their rows leave.

    The block influence of a layer, see `block_influence`, is measured once, here, on ``setting.calibration``: the same
    order for every question.

    Deviations: the paper measures on plain text; here on images and questions, where most rows are image tokens. The
    layers below K are kept, which the paper does not ask for.

    Raises:
        CalibrationError: There is no calibration view.
    """
    if not setting.calibration:
        raise CalibrationError("shortgpt measures layers, and there is nothing to measure on", where="calibration")
    influence = block_influence(setting.vlm, setting.calibration).float()[None]
    return lambda view: influence.to(view.image_embeds.device).repeat(len(view.identity), 1)


@torch.no_grad()
def block_influence(vlm: LoadedModel, views: Sequence[View]) -> Tensor:
    """Returns 1 - mean cosine of each layer's input and output rows, float64 [M], over all real rows of ``views``."""
    decoder, count = _decoder(vlm), 0
    total = torch.zeros(len(decoder.layers), dtype=torch.float64)
    for view in views:
        check_view(view, vlm)
        rows = _rows_before(vlm, view, 0)
        real = _real_rows(vlm, view)
        hidden, changes = rows.hidden, []
        for layer in decoder.layers:
            after = layer(hidden, attention_mask=rows.mask, position_embeddings=rows.rotation)
            changes.append((1 - cosine_similarity(hidden.float(), after.float(), dim=-1))[real].double().sum())
            hidden = after
        total, count = total + torch.stack(changes).cpu(), count + int(real.sum())
    return total / count


def _dart_order(vlm: LoadedModel, view: View, hidden: Tensor, norms: Tensor) -> Tensor:
    """Returns the order int64 [B, N] from hidden states [B, R, H] and key norms [B, R]."""
    start, tokens = view.prompt.prefix_ids.shape[1], vlm.spec.image_tokens
    seen = slice(start, start + tokens)
    batch = torch.arange(len(hidden), device=hidden.device)
    text = _real_rows(vlm, view)
    text[:, seen] = False
    own = ranking(norms[:, seen])[:, :PIVOTS]  # among the image tokens
    others = ranking(norms.masked_fill(~text, -torch.inf))[:, :PIVOTS]  # among all rows
    pivots = torch.cat([start + own, others], dim=1)
    turns = own.shape[1] + text.sum(dim=1).clamp_max(PIVOTS)  # a short prompt has fewer text rows than pivots
    unit = normalize(hidden.float(), dim=-1)
    cosines = unit[batch[:, None], pivots] @ unit[:, seen].transpose(1, 2)  # [B, pivots, N]
    taken = torch.zeros(len(hidden), tokens, dtype=torch.bool, device=hidden.device).scatter_(1, own, value=True)
    order = [*own.T]
    for step in range(tokens - own.shape[1]):
        choice = cosines[batch, step % turns].masked_fill(taken, torch.inf).argmin(dim=1)
        taken[batch, choice] = True
        order.append(choice)
    return torch.stack(order, dim=1)


def _key_norms(vlm: LoadedModel, hidden: Tensor, index: int) -> Tensor:
    """Returns the length of each row's keys in a layer, all kv heads together, float32 [B, R]."""
    layer = _decoder(vlm).layers[index]
    keys = layer.self_attn.k_proj(layer.input_layernorm(hidden)).unflatten(-1, (-1, vlm.spec.decoder.head_dim))
    if vlm.spec.decoder.qk_norm:
        keys = layer.self_attn.k_norm(keys)
    return keys.float().flatten(-2).norm(dim=-1)


def _attention(vlm: LoadedModel, rows: _Rows, index: int) -> Tensor:
    """Returns the attention weights [B, heads, R, R] of one layer, by its stock module."""
    layer = _decoder(vlm).layers[index]
    with attending(_decoder(vlm), "eager"):  # the only one that returns its weights
        normed = layer.input_layernorm(rows.hidden)
        return layer.self_attn(normed, attention_mask=rows.mask, position_embeddings=rows.rotation)[1]


def _rows_before(vlm: LoadedModel, view: View, layer: int) -> _Rows:
    """Runs the layers below ``layer`` on all rows."""
    decoder, hidden = _decoder(vlm), view.embeddings
    count = hidden.shape[1]
    seen = torch.ones(count, count, dtype=torch.bool, device=hidden.device).tril()
    mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)[None, None]
    rotation = decoder.rotary_emb(hidden, torch.arange(count, device=hidden.device)[None])
    for index in range(layer):
        hidden = decoder.layers[index](hidden, attention_mask=mask, position_embeddings=rotation)
    return _Rows(hidden, mask, rotation)


def _real_rows(vlm: LoadedModel, view: View) -> Tensor:
    """Returns bool [B, R], False for padding."""
    ends = view.prompt.prefix_ids.shape[1] + vlm.spec.image_tokens + view.prompt.suffix_lengths
    every = torch.arange(view.embeddings.shape[1], device=view.embeddings.device)
    return every < ends.to(view.embeddings.device)[:, None]


def _decoder(vlm: LoadedModel) -> Any:
    return vlm.model.model.language_model
