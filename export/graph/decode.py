"""The decode graph: new tokens become logits, and the caches grow in place.

It depends on K, the layers, and whether slots differ from positions, not on T: dynamic graphs of all versions with
T < N are equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.decoder import Cache, Clock, Layer, Rotation, decode_layer, embed, head, rotation
from allrounder.export.graph.prefill import cache_shape
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.graph.writer import Dim, GraphWriter, Placed

__all__ = ["decode_graph"]

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT


def decode_graph(pruned: PrunedSpec, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the decode graph of a decision; names, dtypes and shapes are those of `allrounder.tensors`."""
    graph = GraphWriter("decode", weights, dtype)
    batch: Dim = 1 if pruned.dynamic else "B"
    decoder = pruned.spec.decoder
    _inputs(graph, pruned, batch)
    hidden = embed(graph, tensors.INPUT_IDS, "embeddings")
    rotated = rotation(graph, decoder, _positions(graph))
    for layer in pruned.layers:
        slots = tensors.SLOTS if pruned.prunes and layer >= pruned.pruning.prune_layer else tensors.POSITIONS
        hidden = _layer(graph, pruned, layer, hidden, rotated, slots)
    flat = graph.node("Reshape", [hidden, graph.ints(-1, decoder.hidden)], "flat")
    sizes = graph.node(
        "Concat",
        [graph.node("Shape", [tensors.INPUT_IDS], "ids_shape"), graph.ints(decoder.vocabulary)],
        "logits_shape",
        axis=0,
    )
    logits = graph.node("Reshape", [head(graph, decoder, flat), sizes], "shaped")
    graph.output(tensors.LOGITS, _F32, [batch, "S", decoder.vocabulary], logits)
    for layer in pruned.layers:
        for name in (tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT):
            graph.output(name.format(layer=layer), dtype, cache_shape(pruned, layer))
    return graph.model()


def _inputs(graph: GraphWriter, pruned: PrunedSpec, batch: Dim) -> None:
    graph.input(tensors.INPUT_IDS, _I64, [batch, "S"])
    graph.input(tensors.POSITIONS, _I64, [batch])
    if pruned.prunes:
        graph.input(tensors.SLOTS, _I64, [batch])
    if pruned.dynamic:
        graph.input(tensors.LAYER_MASK, TensorProto.BOOL, [pruned.spec.decoder.layers])
    for layer in pruned.layers:
        for name in (tensors.CACHE_KEY, tensors.CACHE_VALUE):
            graph.input(name.format(layer=layer), graph.dtype, cache_shape(pruned, layer))


def _positions(graph: GraphWriter) -> str:
    """Returns the positions int64 [B, S] of all new tokens."""
    count = graph.node("Squeeze", [graph.size(tensors.INPUT_IDS, 1, "new_count")], "new_limit")
    steps = graph.node("Range", [graph.int(0), count, graph.int(1)], "steps")
    return graph.node(
        "Add", [graph.node("Unsqueeze", [tensors.POSITIONS, graph.ints(1)], "first"), steps], "all_positions"
    )


def _layer(graph: GraphWriter, pruned: PrunedSpec, layer: int, hidden: str, rotated: Rotation, slots: str) -> str:
    """Writes one kept layer, behind an `If` where it is optional, and returns its rows."""
    past = Cache(tensors.CACHE_KEY.format(layer=layer), tensors.CACHE_VALUE.format(layer=layer))
    outputs = (tensors.CACHE_KEY_OUT.format(layer=layer), tensors.CACHE_VALUE_OUT.format(layer=layer))
    decoder = pruned.spec.decoder

    def run(inner: GraphWriter) -> tuple[str, ...]:
        filled = inner.node("Add", [slots, inner.size(tensors.INPUT_IDS, 1, "new_count")], "filled")
        here = Layer(decoder, f"decoder.layers.{layer}")
        rows, cache = decode_layer(inner, here, hidden, rotated, past, Clock(slots, filled))
        return (rows, *cache)

    def skip(inner: GraphWriter) -> tuple[str, ...]:
        # Bound in and out to the same (empty) memory, these copies cost nothing.
        return tuple(
            inner.node("Identity", [value], name)
            for value, name in zip((hidden, *past), ("hidden", *outputs), strict=True)
        )

    with graph.scope(f"layers.{layer}"):
        if pruned.optional(layer):
            kept = graph.node("Gather", [tensors.LAYER_MASK, graph.int(layer)], "kept")
            values = graph.choose(kept, run, skip, ("hidden", *outputs))
        else:
            values = run(graph)
    for value, name in zip(values[1:], outputs, strict=True):
        graph.rename(value, name)
    return graph.annotate(values[0], graph.dtype, [1 if pruned.dynamic else "B", "S", decoder.hidden])
