"""The signature of every graph, as the contract has it.

It shares no code with the writers of the graphs, which it is there to check.
"""

from __future__ import annotations

from allrounder import tensors
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.graph.rules import Rules
from allrounder.vlm.spec import ModelSpec

__all__ = ["decode", "prefill", "preprocess", "router", "vision"]

_Shape = list[int | None]


def preprocess(spec: ModelSpec) -> Rules:
    """Returns the rules of the preprocess graph."""
    size = spec.vision.image_size
    return Rules({tensors.IMAGE: [None, None, 3]}, {tensors.PIXEL_VALUES: [1, 3, size, size]}, 0, frozenset(), None)


def vision(spec: ModelSpec) -> Rules:
    """Returns the rules of the vision graph."""
    size, layers = spec.vision.image_size, max(spec.vision.feature_layers)
    image_embeds: _Shape = [None, spec.image_tokens, spec.decoder.hidden]
    return Rules(
        {tensors.PIXEL_VALUES: [None, 3, size, size]}, {tensors.IMAGE_EMBEDS: image_embeds}, layers, frozenset(), None
    )


def router(spec: ModelSpec, layers: int) -> Rules:
    """Returns the rules of the graph of a router of ``layers`` layers."""
    scores: dict[str, _Shape] = {
        tensors.TOKEN_SCORES: [None, spec.image_tokens],
        tensors.LAYER_SCORES: [None, spec.decoder.layers],
    }
    return Rules(_prompt(spec, None), scores, layers, frozenset(), None)


def prefill(pruned: PrunedSpec) -> Rules:
    """Returns the rules of a prefill graph."""
    spec, batch = pruned.spec, 1 if pruned.dynamic else None
    inputs = _prompt(spec, batch) | {tensors.FREE_SLOTS: [1]}
    outputs: dict[str, _Shape] = {tensors.LOGITS: [batch, spec.decoder.vocabulary]}
    if pruned.prunes:
        inputs[tensors.TOKEN_SCORES] = [batch, spec.image_tokens]
        outputs[tensors.KEEP] = [batch, pruned.pruning.keep]
    if pruned.dynamic:
        inputs[tensors.LAYER_SCORES] = [batch, spec.decoder.layers]
        outputs[tensors.LAYER_MASK] = [spec.decoder.layers]
    outputs |= _caches(pruned, tensors.CACHE_KEY, tensors.CACHE_VALUE)
    return Rules(
        inputs, outputs, len(pruned.layers), frozenset(pruned.layers), pruned.pruning.keep if pruned.prunes else None
    )


def decode(pruned: PrunedSpec) -> Rules:
    """Returns the rules of a decode graph."""
    batch = 1 if pruned.dynamic else None
    inputs: dict[str, _Shape] = {tensors.INPUT_IDS: [batch, None], tensors.POSITIONS: [batch]}
    if pruned.prunes:
        inputs[tensors.SLOTS] = [batch]
    if pruned.dynamic:
        inputs[tensors.LAYER_MASK] = [pruned.spec.decoder.layers]
    inputs |= _caches(pruned, tensors.CACHE_KEY, tensors.CACHE_VALUE)
    outputs: dict[str, _Shape] = {tensors.LOGITS: [batch, None, pruned.spec.decoder.vocabulary]}
    outputs |= _caches(pruned, tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT)
    return Rules(inputs, outputs, len(pruned.layers), frozenset(pruned.layers), None)


def _prompt(spec: ModelSpec, batch: int | None) -> dict[str, _Shape]:
    return {
        tensors.PREFIX_IDS: [batch, None],
        tensors.IMAGE_EMBEDS: [batch, spec.image_tokens, spec.decoder.hidden],
        tensors.SUFFIX_IDS: [batch, None],
        tensors.SUFFIX_LENGTHS: [batch],
    }


def _caches(pruned: PrunedSpec, *names: str) -> dict[str, _Shape]:
    decoder = pruned.spec.decoder
    batch = 1 if pruned.dynamic else None
    shape: _Shape = [batch, decoder.kv_heads, None, decoder.head_dim]
    return {name.format(layer=layer): shape for layer in pruned.layers for name in names}
