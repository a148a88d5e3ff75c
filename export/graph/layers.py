"""Decoder layers as ONNX nodes: one with a cache, for the model; one without, for the router.

What it is: RMS norm, attention with rotary embedding and gated MLP of a Llama-like layer, written with standard ops.
What it knows: the decoder's spec, the names of its weights below a prefix, so that the router's layers are written too.
What it does not know: which layers are kept, what the rows mean, how caches are sized.

Hidden rows are [B, R, H]. Queries, keys and values are [B, heads, R, D], the layout of the caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.writer import GraphWriter
from allrounder.vlm.spec import DecoderSpec

__all__ = [
    "Cache",
    "Clock",
    "Layer",
    "Rotation",
    "SeenRows",
    "activation",
    "decoder_layer",
    "embed",
    "head",
    "linear",
    "rms_norm",
    "rotation",
    "router_layer",
    "seen_parts",
]


class Rotation(NamedTuple):
    """Cosine and sine of the rows' positions, each [B, R, D / 2]."""

    cosine: str
    sine: str


class Cache(NamedTuple):
    """Keys and values of one layer, each [B, G, C, D]."""

    key: str
    value: str


class Clock(NamedTuple):
    """Where new rows go in a cache: ``slots`` [B] of the first one, and ``filled`` [B], the rows after writing."""

    slots: str
    filled: str


class Layer(NamedTuple):
    """A decoder layer: its shape, and the prefix of its weights' names."""

    spec: DecoderSpec
    prefix: str


class SeenRows(NamedTuple):
    """A part of a sequence's rows and what they see of all of it."""

    ends: tuple[str, str]  # its first row and that behind its last, int64 [1]
    mask: str  # bool [1, 1, rows, R], True where one sees


def embed(graph: GraphWriter, spec: DecoderSpec) -> str:
    """Returns the rows [B, S, H] of the ids, with the image tokens at theirs in the first sequence."""
    table = graph.weight("decoder.embed_tokens.weight")
    text = graph.node("Gather", [table, tensors.INPUT_IDS], "text", axis=0)
    flat = graph.node("Reshape", [text, graph.ints(-1, spec.hidden)], "text_rows")
    places = graph.node("Unsqueeze", [tensors.IMAGE_INDEX, graph.ints(1)], "image_places")
    rows = graph.node("ScatterND", [flat, places, tensors.IMAGE_EMBEDS], "rows")
    return graph.node("Reshape", [rows, graph.node("Shape", [text], "text_shape")], "embeddings")


def rotation(graph: GraphWriter, spec: DecoderSpec, position_ids: str) -> Rotation:
    """Returns cosine and sine for int64 position ids [1, B, R].

    Computed in float32, as transformers does, instead of read from a table: D / 2 numbers replace one row per
    position, and no table limits the positions.
    """
    frequencies = graph.constant(np.array(spec.rope.inverse_frequencies, np.float32), "inverse_frequencies")
    positions = graph.node("Squeeze", [position_ids, graph.ints(0)], "positions")
    column = graph.node("Unsqueeze", [positions, graph.ints(-1)], "column")
    angles = graph.node(
        "Mul", [graph.cast(column, TensorProto.FLOAT, "column_f32", TensorProto.INT64), frequencies], "angles"
    )
    parts = []
    for op, name in (("Cos", "cosine"), ("Sin", "sine")):
        part = graph.node(op, [angles], f"{name}_f32")
        if spec.rope.scale != 1.0:
            part = graph.node("Mul", [part, graph.number(spec.rope.scale, TensorProto.FLOAT)], f"{name}_scaled")
        parts.append(graph.cast(part, graph.dtype, name, TensorProto.FLOAT))
    return Rotation(*parts)


def seen_parts(graph: GraphWriter, mask: str, parts: int) -> tuple[SeenRows, ...]:
    """Cuts a mask, bool [1, 1, R, R], True where a row sees a column, into parts of its rows; R is at least ``parts``.

    Attention holds a score per head for each of the rows that it is given and each column.
    """
    rows, count = graph.size(mask, 2, "rows"), graph.ints(parts)
    cuts = [
        graph.node("Div", [graph.node("Mul", [rows, graph.ints(part)], "times"), count], "cut")
        for part in range(parts + 1)
    ]
    return tuple(
        SeenRows(ends, graph.node("Slice", [mask, *ends, graph.ints(2)], "seen")) for ends in itertools.pairwise(cuts)
    )


def router_layer(graph: GraphWriter, layer: Layer, hidden: str, rotated: Rotation, seen: Sequence[SeenRows]) -> str:
    """Writes a layer over a whole sequence and returns its rows; ``seen`` is what its rows see, in parts."""
    query, new = _project(graph, layer, hidden, rotated)
    attended = []
    for ends, mask in seen:
        part = graph.node("Slice", [query, *ends, graph.ints(2)], "attn.part")
        attended.append(graph.node("Attention", [part, new.key, new.value, mask], "attn.heads", is_causal=0))
    return _close(graph, layer, hidden, graph.node("Concat", attended, "attn.parts", axis=2))


def decoder_layer(
    graph: GraphWriter, layer: Layer, hidden: str, rotated: Rotation, past: Cache, clock: Clock
) -> tuple[str, Cache]:
    """Writes a layer over new rows, which it puts into the cache, and returns its rows and the cache.

    With `nonpad_kv_seqlen` each row of the batch is causal up to its own length, whatever follows in its cache.
    """
    query, new = _project(graph, layer, hidden, rotated)
    key = graph.node("TensorScatter", [past.key, new.key, clock.slots], "cache_key", axis=2)
    value = graph.node("TensorScatter", [past.value, new.value, clock.slots], "cache_value", axis=2)
    attended = graph.node("Attention", [query, key, value, "", "", "", clock.filled], "attn.heads", is_causal=1)
    return _close(graph, layer, hidden, attended), Cache(key, value)


def head(graph: GraphWriter, spec: DecoderSpec, hidden: str) -> str:
    """Returns float32 logits [R, V] of rows [R, H], final norm included."""
    normed = rms_norm(graph, hidden, "decoder.norm.weight", spec.norm_eps, "norm")
    table = "decoder.embed_tokens.weight" if spec.tied else "decoder.lm_head.weight"
    # Gemm with transB reads the [V, H] table as it lies; Transpose and MatMul would be folded into a private copy.
    logits = graph.node("Gemm", [normed, graph.weight(table)], "head", transB=1)
    return graph.cast(logits, TensorProto.FLOAT, "head_f32")


def rms_norm(graph: GraphWriter, value: str, weight: str, epsilon: float, name: str) -> str:
    """Returns the RMS norm over the last axis; the mean is taken in float32."""
    return graph.node("RMSNormalization", [value, graph.weight(weight)], name, axis=-1, epsilon=epsilon)


def linear(graph: GraphWriter, value: str, weight: str, name: str, *, bias: bool) -> str:
    """Returns ``value @ weight (+ bias)``; the weight is stored [in, out]."""
    product = graph.node("MatMul", [value, graph.weight(f"{weight}.weight")], name)
    return graph.node("Add", [product, graph.weight(f"{weight}.bias")], f"{name}_biased") if bias else product


def activation(graph: GraphWriter, kind: str, value: str, name: str) -> str:
    """Returns an activation of `vlm.config.ACTIVATIONS` of a value."""
    if kind in ("silu", "quick_gelu"):
        scaled = value if kind == "silu" else graph.node("Mul", [value, graph.number(1.702)], f"{name}_scaled")
        return graph.node("Mul", [value, graph.node("Sigmoid", [scaled], f"{name}_sigmoid")], name)
    if kind == "relu":
        return graph.node("Relu", [value], name)
    return graph.node("Gelu", [value], name, approximate={"gelu": "none", "gelu_pytorch_tanh": "tanh"}[kind])


def _project(graph: GraphWriter, layer: Layer, hidden: str, rotated: Rotation) -> tuple[str, Cache]:
    """Returns queries [B, heads, R, D] and the new keys and values [B, G, R, D]."""
    spec, attention = layer.spec, f"{layer.prefix}.self_attn"
    normed = rms_norm(graph, hidden, f"{layer.prefix}.input_layernorm.weight", spec.norm_eps, "attn.norm")
    parts = []
    for part, heads in (("q", spec.heads), ("k", spec.kv_heads), ("v", spec.kv_heads)):
        flat = linear(graph, normed, f"{attention}.{part}_proj", f"attn.{part}", bias=spec.qkv_bias)
        split = graph.node("Reshape", [flat, graph.ints(0, 0, heads, spec.head_dim)], f"attn.{part}_split")
        if spec.qk_norm and part != "v":
            split = rms_norm(graph, split, f"{attention}.{part}_norm.weight", spec.norm_eps, f"attn.{part}_norm")
        value = graph.node("Transpose", [split], f"attn.{part}_heads", perm=[0, 2, 1, 3])
        if part != "v":
            value = graph.node("RotaryEmbedding", [value, *rotated], f"attn.{part}_rotated")
        parts.append(value)
    return parts[0], Cache(parts[1], parts[2])


def _close(graph: GraphWriter, layer: Layer, hidden: str, attended: str) -> str:
    """Returns the layer's rows: output projection, residual, norm, gated MLP, residual."""
    spec, mlp = layer.spec, f"{layer.prefix}.mlp"
    joined = graph.node("Transpose", [attended], "attn.joined", perm=[0, 2, 1, 3])
    flat = graph.node("Reshape", [joined, graph.ints(0, 0, spec.heads * spec.head_dim)], "attn.flat")
    mixed = linear(graph, flat, f"{layer.prefix}.self_attn.o_proj", "attn.out", bias=spec.o_bias)
    between = graph.node("Add", [hidden, mixed], "attn.residual")
    normed = rms_norm(graph, between, f"{layer.prefix}.post_attention_layernorm.weight", spec.norm_eps, "mlp.norm")
    gate = linear(graph, normed, f"{mlp}.gate_proj", "mlp.gate", bias=spec.mlp_bias)
    up = linear(graph, normed, f"{mlp}.up_proj", "mlp.up", bias=spec.mlp_bias)
    gated = graph.node("Mul", [activation(graph, spec.activation, gate, "mlp.activated"), up], "mlp.gated")
    down = linear(graph, gated, f"{mlp}.down_proj", "mlp.down", bias=spec.mlp_bias)
    return graph.node("Add", [between, down], "hidden")
