"""The signature of every graph, as the contract has it.

It shares no code with the writers of the graphs, which it is there to check.
"""

from __future__ import annotations

from allrounder import tensors
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.graph.rules import Rules
from allrounder.vlm.spec import ModelSpec

__all__ = ["decoder", "router", "vision"]

_Shape = list[int | None]


def vision(spec: ModelSpec) -> Rules:
    """Returns the rules of the vision graph."""
    size, layers = spec.vision.image_size, max(spec.vision.feature_layers)
    image_embeds: _Shape = [None, spec.decoder.hidden]
    inputs: dict[str, _Shape] = {tensors.TILES: [None, size, size, 3]}
    if spec.newline:
        inputs |= {tensors.TOKEN_ROWS: [None, 4], tensors.TOKEN_WEIGHTS: [None, 4]}
    return Rules(inputs, {tensors.IMAGE_EMBEDS: image_embeds}, layers, frozenset())


def router(spec: ModelSpec, layers: int) -> Rules:
    """Returns the rules of the graph of a router of ``layers`` layers."""
    inputs = _prompt(spec, 1) | {tensors.IMAGE_OF: [None], tensors.POSITION_IDS: [1, 1, None]}
    scores: dict[str, _Shape] = {tensors.TOKEN_SCORES: [None], tensors.LAYER_SCORES: [spec.decoder.layers]}
    return Rules(inputs, scores, layers * min(8, spec.decoder.layers), frozenset())  # attention is in parts


def decoder(pruned: PrunedSpec) -> Rules:
    """Returns the rules of a decoder graph."""
    batch = 1 if pruned.dynamic else None
    inputs = _prompt(pruned.spec, batch)
    inputs |= {tensors.POSITION_IDS: [1, batch, None], tensors.SLOTS: [batch], tensors.LOGITS_TO_KEEP: [1]}
    outputs: dict[str, _Shape] = {tensors.LOGITS: [batch, None, pruned.spec.decoder.vocabulary]}
    if pruned.prunes:
        inputs |= {tensors.TOKEN_SCORES: [None], tensors.IMAGE_OF: [None], tensors.KEEP_COUNTS: [None]}
        inputs[tensors.KEPT_SLOTS] = [batch]
        outputs[tensors.KEEP_INDICES] = [None]
    if pruned.dynamic:
        inputs[tensors.LAYER_MASK] = [pruned.spec.decoder.layers]
    inputs |= _caches(pruned, tensors.CACHE_KEY, tensors.CACHE_VALUE)
    outputs |= _caches(pruned, tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT)
    layers = frozenset(pruned.layers)
    return Rules(inputs, outputs, len(layers), layers, gathers=int(pruned.prunes))


def _prompt(spec: ModelSpec, batch: int | None) -> dict[str, _Shape]:
    return {
        tensors.INPUT_IDS: [batch, None],
        tensors.IMAGE_EMBEDS: [None, spec.decoder.hidden],
        tensors.IMAGE_INDEX: [None],
    }


def _caches(pruned: PrunedSpec, *names: str) -> dict[str, _Shape]:
    decoder = pruned.spec.decoder
    batch = 1 if pruned.dynamic else None
    shape: _Shape = [batch, decoder.kv_heads, None, decoder.head_dim]
    return {name.format(layer=layer): shape for layer in pruned.layers for name in names}
