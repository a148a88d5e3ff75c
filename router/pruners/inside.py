"""FastV, DART (tokens) and ShortGPT (layers), from their papers: they run the frozen model's own layers.

What it is: FastV and DART (tokens) and ShortGPT (layers), written from their papers.
What it knows: a prompt's rows and that stock layers turn rows into rows; FastV and DART run no layer
that pruning could have saved, the layers below K (FastV at K=0: the attention of layer 0).
What it does not know: budgets, answers.

Padding stands at the end of causal rows, so no real row sees it; what padding itself becomes is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad

from allrounder.errors import CalibrationError
from allrounder.router.gated import attending
from allrounder.router.pruners.setting import LayerPruner, Setting, TokenPruner, View, check_view, scores_by_image
from allrounder.router.selection import ranking
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import real_rows, rope_positions

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
        every, index = torch.arange(len(weights), device=weights.device), view.prompt.image_index
        paid = weights[every, :, view.prompt.lengths - 1].float().mean(dim=1)  # [B, R]
        return paid.gather(1, index.clamp_min(0)).masked_fill(index < 0, -torch.inf)

    return scores


def dart(setting: Setting) -> TokenPruner:
    """Returns DART (Wen et al., EMNLP 2025): duplicates of a few pivot tokens leave.

    An image's pivots are those `PIVOTS` tokens of it and the `PIVOTS` text rows whose keys in layer K are longest. Its
    own are kept first; then the pivots take turns, each adding the token of the image whose hidden state before layer K
    has the smallest cosine with its own.

    Deviations: the paper fixes T first and lets each pivot take its whole share at once; taking turns gives each pivot
    the same share at every T, which makes one nested order. The key's length is Euclidean over all kv heads, which the
    rotary embedding leaves as it is. Text pivots are taken from all text rows, the template's included.
    """

    @torch.no_grad()
    def scores(view: View) -> Tensor:
        vlm = setting.vlm
        rows = _rows_before(vlm, view, setting.prune_layer)
        norms, index = _key_norms(vlm, rows.hidden, setting.prune_layer), view.prompt.image_index
        text = pad(real_rows(view.prompt), (0, 1)).scatter(1, index.where(index >= 0, norms.shape[1]), value=False)

        def order(row: int, places: Tensor) -> Tensor:
            return _dart_order(rows.hidden[row], norms[row], index[row, places], text[row, :-1])

        return scores_by_image(view, order)

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
    decoder, count = vlm.decoder, 0
    total = torch.zeros(len(decoder.layers), dtype=torch.float64)
    for view in views:
        check_view(view, vlm)
        rows = _rows_before(vlm, view, 0)
        real = real_rows(view.prompt)
        hidden, changes = rows.hidden, []
        for layer in decoder.layers:
            after = layer(hidden, attention_mask=rows.mask, position_embeddings=rows.rotation)
            changes.append((1 - cosine_similarity(hidden.float(), after.float(), dim=-1))[real].double().sum())
            hidden = after
        total, count = total + torch.stack(changes).cpu(), count + int(real.sum())
    return total / count


def _dart_order(hidden: Tensor, norms: Tensor, seen: Tensor, text: Tensor) -> Tensor:
    """Returns the order int64 [N_i] of one image's tokens.

    Args:
        hidden: [R, H], a prompt's rows.
        norms: [R], of their keys.
        seen: int64 [N_i], the rows of the image's tokens.
        text: bool [R], which rows are text.
    """
    own = ranking(norms[None, seen])[0, :PIVOTS]  # among the image's tokens
    others = ranking(norms.masked_fill(~text, -torch.inf)[None])[0, : min(PIVOTS, int(text.sum()))]  # among all rows
    unit = normalize(hidden.float(), dim=-1)
    cosines = unit[torch.cat([seen[own], others])] @ unit[seen].T  # [pivots, N_i]
    taken = torch.zeros(len(seen), dtype=torch.bool, device=hidden.device).scatter_(0, own, value=True)
    order = [*own]
    for step in range(len(seen) - len(own)):
        choice = cosines[step % len(cosines)].masked_fill(taken, torch.inf).argmin()
        taken[choice] = True
        order.append(choice)
    return torch.stack(order)


def _key_norms(vlm: LoadedModel, hidden: Tensor, index: int) -> Tensor:
    """Returns the length of each row's keys in a layer, all kv heads together, float32 [B, R]."""
    layer = vlm.decoder.layers[index]
    keys = layer.self_attn.k_proj(layer.input_layernorm(hidden)).unflatten(-1, (-1, vlm.spec.decoder.head_dim))
    if vlm.spec.decoder.qk_norm:
        keys = layer.self_attn.k_norm(keys)
    return keys.float().flatten(-2).norm(dim=-1)


def _attention(vlm: LoadedModel, rows: _Rows, index: int) -> Tensor:
    """Returns the attention weights [B, heads, R, R] of one layer, by its stock module."""
    layer = vlm.decoder.layers[index]
    with attending(vlm.decoder, "eager"):  # the only one that returns its weights
        normed = layer.input_layernorm(rows.hidden)
        return layer.self_attn(normed, attention_mask=rows.mask, position_embeddings=rows.rotation)[1]


def _rows_before(vlm: LoadedModel, view: View, layer: int) -> _Rows:
    """Runs the layers below ``layer`` on all rows."""
    decoder, hidden = vlm.decoder, view.embeddings
    count = hidden.shape[1]
    seen = torch.ones(count, count, dtype=torch.bool, device=hidden.device).tril()
    mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)[None, None]
    rotation = decoder.rotary_emb(hidden, rope_positions(view.prompt.position_ids))
    for index in range(layer):
        hidden = decoder.layers[index](hidden, attention_mask=mask, position_embeddings=rotation)
    return _Rows(hidden, mask, rotation)
