"""The decoder graph: new rows become logits, and the caches grow in place.

The rows of a prompt, image tokens included, or of new tokens, go through the kept layers; at K the dropped image tokens
leave. One graph serves both: new tokens come without image tokens, and then the gather lets everything pass. How many
image tokens are kept is an input, so versions with the same layers have the same graph, byte for byte.

Causality needs no mask: `nonpad_kv_seqlen` aligns the new rows with the filled part of each cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.layers import Cache, Clock, Layer, Rotation, decoder_layer, embed, head, rotation
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.graph.writer import Dim, GraphWriter, Placed

__all__ = ["decoder_graph"]

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
_LAST = 2**62  # beyond every row


class _Rows(NamedTuple):
    """Hidden rows [B, R, H], position ids [1, B, R], where they go in the caches, and the name of R in shapes."""

    hidden: str
    position_ids: str
    slots: str
    extent: str


def decoder_graph(pruned: PrunedSpec, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the decoder graph of a pruned model; names, dtypes and shapes are those of `allrounder.tensors`."""
    graph = GraphWriter("decoder", weights, dtype)
    _inputs(graph, pruned)
    rows = _Rows(embed(graph, pruned.spec.decoder), tensors.POSITION_IDS, tensors.SLOTS, "S")
    rows = _through_layers(graph, pruned, rows)
    _logits(graph, pruned, rows.hidden)
    if pruned.prunes:
        graph.output(tensors.KEEP_INDICES, _I64, ["T"])
    for layer in pruned.layers:
        for name in (tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT):
            graph.output(name.format(layer=layer), dtype, _cache_shape(pruned, layer))
    return graph.model()


def _inputs(graph: GraphWriter, pruned: PrunedSpec) -> None:
    batch, decoder = _batch(pruned), pruned.spec.decoder
    graph.input(tensors.INPUT_IDS, _I64, [batch, "S"])
    graph.input(tensors.IMAGE_EMBEDS, graph.dtype, ["N", decoder.hidden])
    graph.input(tensors.IMAGE_INDEX, _I64, ["N"])
    graph.input(tensors.POSITION_IDS, _I64, [1, batch, "S"])
    graph.input(tensors.SLOTS, _I64, [batch])
    graph.input(tensors.LOGITS_TO_KEEP, _I64, [1])
    if pruned.prunes:
        graph.input(tensors.TOKEN_SCORES, _F32, ["N"])
        graph.input(tensors.IMAGE_OF, _I64, ["N"])
        graph.input(tensors.KEEP_COUNTS, _I64, ["I"])
        graph.input(tensors.KEPT_SLOTS, _I64, [batch])
    if pruned.dynamic:
        graph.input(tensors.LAYER_MASK, TensorProto.BOOL, [decoder.layers])
    for layer in pruned.layers:
        for name in (tensors.CACHE_KEY, tensors.CACHE_VALUE):
            graph.input(name.format(layer=layer), graph.dtype, _cache_shape(pruned, layer))


def _through_layers(graph: GraphWriter, pruned: PrunedSpec, rows: _Rows) -> _Rows:
    """Writes all layers, and where it prunes the gather before the first of them that is not below K."""
    below = pruned.layers[: pruned.pruning.prune_layer] if pruned.prunes else pruned.layers
    for part, layers in (("below", below), ("beyond", pruned.layers[len(below) :])):
        if part == "beyond" and pruned.prunes:
            rows = _gather(graph, pruned, rows)
        if not layers:
            continue
        with graph.scope(part):
            rotated = rotation(graph, pruned.spec.decoder, rows.position_ids)
            filled = graph.node("Add", [rows.slots, graph.size(rows.hidden, 1, "new_count")], "filled")
        for layer in layers:
            hidden = _layer(graph, pruned, layer, rows.hidden, rotated, Clock(rows.slots, filled))
            shape: list[Dim] = [_batch(pruned), rows.extent, pruned.spec.decoder.hidden]
            rows = rows._replace(hidden=graph.annotate(hidden, graph.dtype, shape))
    return rows


def _layer(graph: GraphWriter, pruned: PrunedSpec, layer: int, hidden: str, rotated: Rotation, clock: Clock) -> str:
    """Writes one layer, behind an `If` where it is optional, and returns its rows."""
    past = Cache(tensors.CACHE_KEY.format(layer=layer), tensors.CACHE_VALUE.format(layer=layer))
    outputs = (tensors.CACHE_KEY_OUT.format(layer=layer), tensors.CACHE_VALUE_OUT.format(layer=layer))

    def run(inner: GraphWriter) -> tuple[str, ...]:
        here = Layer(pruned.spec.decoder, f"decoder.layers.{layer}")
        rows, cache = decoder_layer(inner, here, hidden, rotated, past, clock)
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
    return values[0]


def _gather(graph: GraphWriter, pruned: PrunedSpec, rows: _Rows) -> _Rows:
    """Lets the dropped image tokens leave."""
    inputs = [
        rows.hidden,
        rows.position_ids,
        tensors.TOKEN_SCORES,
        tensors.IMAGE_INDEX,
        tensors.IMAGE_OF,
        tensors.KEEP_COUNTS,
    ]
    with graph.scope("gather"):
        hidden, position_ids, keep = graph.call(
            token_gather(), inputs, ("hidden", "position_ids", "keep_indices"), **PLUGIN
        )
    graph.rename(keep, tensors.KEEP_INDICES)
    graph.annotate(hidden, graph.dtype, [_batch(pruned), "R_kept", pruned.spec.decoder.hidden])
    graph.annotate(position_ids, _I64, [1, _batch(pruned), "R_kept"])
    return _Rows(hidden, position_ids, tensors.KEPT_SLOTS, "R_kept")


def _logits(graph: GraphWriter, pruned: PrunedSpec, hidden: str) -> None:
    """Writes the logits of the last `LOGITS_TO_KEEP` rows."""
    decoder = pruned.spec.decoder
    with graph.scope("last"):
        begin = graph.node("Neg", [tensors.LOGITS_TO_KEEP], "begin")
        last = graph.node("Slice", [hidden, begin, graph.ints(_LAST), graph.ints(1)], "hidden")
        flat = graph.node("Reshape", [last, graph.ints(-1, decoder.hidden)], "rows")
        extent = graph.node("Shape", [last], "extent", start=0, end=2)
        shape = graph.node("Concat", [extent, graph.ints(decoder.vocabulary)], "shape", axis=0)
    logits = graph.node("Reshape", [head(graph, decoder, flat), shape], "shaped")
    graph.output(tensors.LOGITS, _F32, [_batch(pruned), "Q", decoder.vocabulary], logits)


def _batch(pruned: PrunedSpec) -> Dim:
    return 1 if pruned.dynamic else "B"


def _cache_shape(pruned: PrunedSpec, layer: int) -> list[Dim]:
    """Returns the shape of a layer's cache, with names for what is not static."""
    decoder = pruned.spec.decoder
    if pruned.optional(layer):
        return [1, decoder.kv_heads, f"C_{layer}", decoder.head_dim]  # each is either there or empty
    slots = "C_kept" if pruned.prunes and layer >= pruned.pruning.prune_layer else "C"
    return [_batch(pruned), decoder.kv_heads, slots, decoder.head_dim]
