"""The prefill graph: a prompt becomes the first logits and the caches.

The prompt's attention is causal without a mask: padding is at the end, and so no real row sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.decoder import Layer, Rotation, embed, head, prompt_layer, rotation
from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.graph.writer import Dim, GraphWriter, Placed
from allrounder.vlm.spec import ModelSpec

__all__ = ["cache_shape", "prefill_graph", "prompt_embedding", "prompt_inputs", "row_numbers"]

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
ROWS, KEPT_ROWS = "R", "R_kept"  # prompt rows below K and from K on, in shapes


class _Rows(NamedTuple):
    """Hidden rows [B, R, H], their positions int64 [B, R], and the name of R."""

    hidden: str
    positions: str
    extent: str


def prefill_graph(pruned: PrunedSpec, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the prefill graph of a decision; names, dtypes and shapes are those of `allrounder.tensors`."""
    graph = GraphWriter("prefill", weights, dtype)
    batch: Dim = 1 if pruned.dynamic else "B"
    prompt_inputs(graph, pruned.spec, batch)
    graph.input(tensors.FREE_SLOTS, _I64, [1])
    if pruned.prunes:
        graph.input(tensors.TOKEN_SCORES, _F32, [batch, pruned.spec.image_tokens])
    if pruned.dynamic:
        graph.input(tensors.LAYER_SCORES, _F32, [batch, pruned.spec.decoder.layers])
        _layer_mask(graph, pruned)
    rows = _through_layers(graph, pruned, _prompt_rows(graph))
    logits = head(graph, pruned.spec.decoder, _last_rows(graph, rows.hidden))
    graph.output(tensors.LOGITS, _F32, [batch, pruned.spec.decoder.vocabulary], logits)
    _declare_outputs(graph, pruned, batch)
    return graph.model()


def prompt_inputs(graph: GraphWriter, spec: ModelSpec, batch: Dim) -> None:
    """Declares the four inputs that make a prompt."""
    graph.input(tensors.PREFIX_IDS, _I64, [batch, "P"])
    graph.input(tensors.IMAGE_EMBEDS, graph.dtype, [batch, spec.image_tokens, spec.decoder.hidden])
    graph.input(tensors.SUFFIX_IDS, _I64, [batch, "S"])
    graph.input(tensors.SUFFIX_LENGTHS, _I64, [batch])


def prompt_embedding(graph: GraphWriter) -> str:
    """Returns the rows [prefix | image | suffix], [B, P + N + S, H]."""
    prefix, suffix = embed(graph, tensors.PREFIX_IDS, "prefix"), embed(graph, tensors.SUFFIX_IDS, "suffix")
    return graph.node("Concat", [prefix, tensors.IMAGE_EMBEDS, suffix], "embeddings", axis=1)


def row_numbers(graph: GraphWriter, rows: str) -> str:
    """Returns 0, 1, ... for the rows of [B, R, H], as int64 [B, R]."""
    count = graph.size(rows, 1, "row_count")
    numbers = graph.node(
        "Range", [graph.int(0), graph.node("Squeeze", [count], "row_limit"), graph.int(1)], "row_numbers"
    )
    shape = graph.node("Shape", [rows], "row_shape", start=0, end=2)
    return graph.node("Expand", [numbers, shape], "positions")


def _prompt_rows(graph: GraphWriter) -> _Rows:
    hidden = prompt_embedding(graph)
    return _Rows(hidden, row_numbers(graph, hidden), ROWS)


def _through_layers(graph: GraphWriter, pruned: PrunedSpec, rows: _Rows) -> _Rows:
    """Writes all kept layers, and the gather before the first of them that is not below K."""
    below = range(pruned.pruning.prune_layer)
    beyond = pruned.layers[len(below) :]
    for layers in (below, beyond):
        if layers is beyond and pruned.prunes:
            with graph.scope("gather"):
                rows = _gather(graph, pruned, rows)
        if not layers:
            continue
        with graph.scope("below" if layers is below else "beyond"):
            rotated = rotation(graph, pruned.spec.decoder, rows.positions)
        for layer in layers:
            rows = rows._replace(hidden=_layer(graph, pruned, layer, rows, rotated))
    return rows


def _layer(graph: GraphWriter, pruned: PrunedSpec, layer: int, rows: _Rows, rotated: Rotation) -> str:
    """Writes one kept layer, behind an `If` where it is optional, and returns its rows."""
    outputs = (tensors.CACHE_KEY.format(layer=layer), tensors.CACHE_VALUE.format(layer=layer))
    decoder = pruned.spec.decoder

    def run(inner: GraphWriter) -> tuple[str, ...]:
        hidden, cache = prompt_layer(inner, Layer(decoder, f"decoder.layers.{layer}"), rows.hidden, rotated)
        return (hidden, *(_with_free_slots(inner, value, name) for value, name in zip(cache, outputs, strict=True)))

    def skip(inner: GraphWriter) -> tuple[str, ...]:
        shape = inner.ints(1, decoder.kv_heads, 0, decoder.head_dim)
        empty = [inner.node("ConstantOfShape", [shape], name, value=inner.zero()) for name in outputs]
        return (inner.node("Identity", [rows.hidden], "hidden"), *empty)

    with graph.scope(f"layers.{layer}"):
        if pruned.optional(layer):
            kept = graph.node("Gather", [tensors.LAYER_MASK, graph.int(layer)], "kept")
            values = graph.choose(kept, run, skip, ("hidden", *outputs))
        else:
            values = run(graph)
    for value, name in zip(values[1:], outputs, strict=True):
        graph.rename(value, name)
    batch: Dim = 1 if pruned.dynamic else "B"
    return graph.annotate(values[0], graph.dtype, [batch, rows.extent, decoder.hidden])


def _with_free_slots(graph: GraphWriter, value: str, name: str) -> str:
    """Returns a cache [B, G, R, D] with `free_slots` free slots behind its rows."""
    pads = graph.node("Concat", [graph.ints(0), tensors.FREE_SLOTS], f"{name}_pads", axis=0)
    if graph.dtype != TensorProto.BFLOAT16:
        return graph.node("Pad", [value, pads, "", graph.ints(2)], name)
    wide = graph.cast(value, TensorProto.FLOAT, f"{name}_wide")  # ONNX Runtime (1.31) pads bfloat16 on no device
    padded = graph.node("Pad", [wide, pads, "", graph.ints(2)], f"{name}_padded")
    return graph.cast(padded, graph.dtype, name, source=TensorProto.FLOAT)


def _gather(graph: GraphWriter, pruned: PrunedSpec, rows: _Rows) -> _Rows:
    """Cuts the image tokens out, keeps the best T of them with their positions, and joins the rows again."""
    extents = [
        graph.size(tensors.PREFIX_IDS, 1, "prefix_rows"),
        graph.ints(pruned.spec.image_tokens),
        graph.size(tensors.SUFFIX_IDS, 1, "suffix_rows"),
    ]
    parts = graph.node("Concat", extents, "extents", axis=0)
    hidden = graph.nodes("Split", [rows.hidden, parts], ("prefix", "image_embeds", "suffix"), axis=1)
    positions = graph.nodes(
        "Split", [rows.positions, parts], ("prefix_positions", "image_positions", "suffix_positions"), axis=1
    )
    kept, kept_positions, keep = graph.call(
        token_gather(),
        [hidden[1], tensors.TOKEN_SCORES, positions[1]],
        ("kept", "kept_positions", "keep"),
        k=pruned.pruning.keep,
        **PLUGIN,
    )
    batch: Dim = 1 if pruned.dynamic else "B"
    graph.rename(keep, tensors.KEEP)
    graph.annotate(kept, graph.dtype, [batch, pruned.pruning.keep, pruned.spec.decoder.hidden])
    joined = graph.node("Concat", [hidden[0], kept, hidden[2]], "hidden", axis=1)
    joined_positions = graph.node("Concat", [positions[0], kept_positions, positions[2]], "positions", axis=1)
    graph.annotate(joined, graph.dtype, [batch, KEPT_ROWS, pruned.spec.decoder.hidden])
    return _Rows(joined, joined_positions, KEPT_ROWS)


def _layer_mask(graph: GraphWriter, pruned: PrunedSpec) -> None:
    """Chooses the L - K best of the layers from K on; ties go to the lower index, NaN counts as -inf."""
    below, depth = pruned.pruning.prune_layer, pruned.spec.decoder.layers
    always = graph.constant(np.arange(depth) < below, "always_kept")
    chosen = pruned.pruning.layers - below
    if not chosen:
        graph.rename(graph.node("Identity", [always], "layer_mask"), tensors.LAYER_MASK)
        return
    with graph.scope("layer_mask"):
        flat = graph.node("Reshape", [tensors.LAYER_SCORES, graph.ints(-1)], "flat")
        scores = graph.node("Slice", [flat, graph.ints(below), graph.ints(depth)], "scores")
        lowest = graph.number(float("-inf"), _F32)
        ordered = graph.node("Where", [graph.node("IsNaN", [scores], "unordered"), lowest, scores], "ordered")
        _, best = graph.nodes("TopK", [ordered, graph.ints(chosen)], ("best_scores", "best"), largest=1, sorted=1)
        layers = graph.node("Add", [best, graph.int(below)], "layers")
        marks = graph.constant(np.ones(chosen, bool), "marks")
        mask = graph.node("ScatterElements", [always, layers, marks], "mask", axis=0)
    graph.rename(mask, tensors.LAYER_MASK)


def _last_rows(graph: GraphWriter, hidden: str) -> str:
    """Returns the row [B, H] of each prompt's last real suffix token."""
    with graph.scope("last"):
        before = graph.node(
            "Sub", [graph.size(hidden, 1, "rows"), graph.size(tensors.SUFFIX_IDS, 1, "suffix_rows")], "before_suffix"
        )
        ends = graph.node("Add", [before, tensors.SUFFIX_LENGTHS], "ends")
        index = graph.node("Unsqueeze", [graph.node("Sub", [ends, graph.int(1)], "index"), graph.ints(1)], "indices")
        return graph.node("GatherND", [hidden, index], "hidden", batch_dims=1)


def _declare_outputs(graph: GraphWriter, pruned: PrunedSpec, batch: Dim) -> None:
    if pruned.prunes:
        graph.output(tensors.KEEP, _I64, [batch, pruned.pruning.keep])
    if pruned.dynamic:
        graph.output(tensors.LAYER_MASK, TensorProto.BOOL, [pruned.spec.decoder.layers])
    for layer in pruned.layers:
        for name in (tensors.CACHE_KEY, tensors.CACHE_VALUE):
            graph.output(name.format(layer=layer), graph.dtype, cache_shape(pruned, layer))


def cache_shape(pruned: PrunedSpec, layer: int) -> list[Dim]:
    """Returns the shape of a layer's cache, with names for what is not static."""
    decoder = pruned.spec.decoder
    if pruned.optional(layer):
        return [1, decoder.kv_heads, f"C_{layer}", decoder.head_dim]  # each is either there or empty
    slots = "C_kept" if pruned.prunes and layer >= pruned.pruning.prune_layer else "C"
    return [1 if pruned.dynamic else "B", decoder.kv_heads, slots, decoder.head_dim]
