"""The reference: the stock Hugging Face model, masked instead of pruned.

What it is: `masked_logits`, against which every removing implementation is compared.
What it knows: that dropped tokens are masked as keys from layer K on, and that a skipped layer's output is replaced
by its input. Nothing is removed, nothing is cached, positions are the library's own, every row runs alone and without
padding: slow and plain.
What it does not know: any of our own layers or caches; the model's ``forward`` is the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.pruned import PruningDecision, layer_mask

__all__ = ["masked_logits"]


@torch.no_grad()
def masked_logits(
    vlm: LoadedModel,
    image_embeds: Tensor,
    prompt: PromptBatch,
    decision: PruningDecision,
    answer_ids: Tensor | None = None,
) -> Tensor:
    """Returns the masked logits after each prompt and along a given answer.

    Args:
        vlm: Loaded in float32, if differences are to mean something.
        image_embeds: [B, N, H], a row's images one after another.
        prompt: B prompts.
        decision: For B rows.
        answer_ids: int64 [B, A], or None for A = 0.

    Returns:
        [B, 1 + A, V]: element 0 follows the prompt's last token, element j the answer's j-th.
    """
    batch = len(prompt.input_ids)
    kept = layer_mask(decision.kept_layers, batch, vlm.spec.decoder.layers)
    answers = prompt.input_ids[:, :0] if answer_ids is None else answer_ids
    embed = vlm.model.get_input_embeddings()
    logits = []
    for index in range(batch):
        row = prompt.row(index)
        ids, images = torch.cat([row.input_ids, answers[index : index + 1]], dim=1), row.image_index[0]
        inputs = embed(ids)
        inputs[0, images] = image_embeds[index, : len(images)].to(inputs.dtype)
        keep = decision.keep[index]
        seen = _seen(ids.shape[1], images, images[keep[keep >= 0]])
        with _masked(vlm, seen, kept[index], decision.prune_layer):
            output: Any = vlm.model(inputs_embeds=inputs, use_cache=False, logits_to_keep=1 + answers.shape[1])
        logits.append(output.logits)
    return torch.cat(logits)


def _seen(rows: int, images: Tensor, stay: Tensor) -> Tensor:
    """Returns bool [rows, rows]: which keys each query sees from layer K on."""
    kept = torch.ones(rows, dtype=torch.bool, device=images.device)
    kept[images] = False
    kept[stay] = True
    return torch.ones(rows, rows, dtype=torch.bool, device=images.device).tril() & kept


@contextmanager
def _masked(vlm: LoadedModel, seen: Tensor, kept: Tensor, prune_layer: int) -> Iterator[None]:
    """Hooks the stock layers: another mask from layer K on, and identity for skipped ones."""
    dtype = vlm.model.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
    with ExitStack() as hooks:
        for index, layer in enumerate(vlm.decoder.layers):
            if index >= prune_layer:
                handle = layer.register_forward_pre_hook(_with_mask(mask[None, None]), with_kwargs=True)
                hooks.callback(handle.remove)
            if not kept[index]:
                hooks.callback(layer.register_forward_hook(_identity).remove)
        yield


def _with_mask(mask: Tensor) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(_: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**kwargs, "attention_mask": mask}

    return hook


def _identity(_: Any, inputs: tuple[Any, ...], __: Any) -> Any:
    return inputs[0]
