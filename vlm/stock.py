"""The stock model of a model directory, as `from_pretrained` makes it of the files.

transformers fills what it does not find with random numbers and drops what it does not know, and reports both; weights
that are asked for in the dtype they are stored in it maps instead of copying.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from allrounder.errors import ModelUnsupported
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.parts.names import never_computed

__all__ = ["load_mapped", "load_stock"]


def load_stock(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the stock model, on the CPU, in eval mode and without gradients.

    All weights are in ``dtype``, whatever the files hold.

    Raises:
        ModelUnsupported: transformers does not load these files, or reads them otherwise than `Checkpoint`.
    """
    directory, family = checkpoint.directory, FAMILIES[checkpoint.spec.model_type]
    try:
        with _no_bar():
            loaded: Any = family.model.from_pretrained(
                str(directory),
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelUnsupported("transformers does not load this model", where=directory, got=error) from error
    (model, report), named = loaded, family.names.canonical
    lost = [name for name in report["missing_keys"] if (named(name) or "") in checkpoint]
    dropped = [name for name in report["unexpected_keys"] if not never_computed(named(name) or "")]
    if lost or dropped:
        raise ModelUnsupported(
            "transformers reads the names of the weights otherwise than we do",
            where=directory,
            got=", ".join(sorted([*lost, *dropped])[:4]),
            remedy="load the model with transformers and save it anew with save_pretrained",
        )
    return model.eval().requires_grad_(requires_grad=False)


def load_mapped(checkpoint: Checkpoint) -> PreTrainedModel:
    """Returns the stock model with every weight as it is stored: mapped from the files, hardly in memory.

    transformers casts all weights to one dtype, and maps those that have it. The few that a checkpoint may hold in
    another one are put back as they are stored.

    Raises:
        ModelUnsupported: See `load_stock`.
    """
    model: Any = load_stock(checkpoint, checkpoint.dtype)
    table = model.get_input_embeddings()
    tied = model.lm_head.weight is table.weight
    named = FAMILIES[checkpoint.spec.model_type].names.canonical
    state = {name: (named(name) or "", tensor.dtype) for name, tensor in model.state_dict().items()}
    stored = {name: checkpoint.read(ours) for name, (ours, _) in state.items() if ours in checkpoint}
    others = {name: tensor for name, tensor in stored.items() if tensor.dtype != state[name][1]}
    model.load_state_dict(others, strict=False, assign=True)
    if tied:
        model.lm_head.weight = table.weight
    return model


@contextmanager
def _no_bar() -> Iterator[None]:
    """Hides transformers' own bar over tensors that are mapped in no time: stages show their own progress."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
