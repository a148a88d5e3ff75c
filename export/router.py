"""The router graph: a prompt becomes token scores and layer scores.

Scores are float32 in every precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.decoder import Layer, prompt_layer, rms_norm, rotation
from allrounder.export.graph.prefill import prompt_embedding, prompt_inputs, row_numbers
from allrounder.export.graph.writer import GraphWriter, Placed
from allrounder.export.weights.layout import Needed, decoder_layer
from allrounder.router.model import AttentionKind
from allrounder.vlm.spec import ModelSpec

__all__ = ["PREFIX", "RouterShape", "router_graph", "router_tensors"]

PREFIX = "router."  # before the names of the router's own state dict
_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT


class RouterShape(NamedTuple):
    """What a router graph depends on besides the model."""

    attention: AttentionKind
    layers: int


class _Sequence(NamedTuple):
    """Rows before the layer tokens [1], and per prompt the rows before its padding [B], both int64."""

    rows: str
    ends: str


def router_tensors(spec: ModelSpec, shape: RouterShape) -> tuple[Needed, ...]:
    """Returns the tensors of a router; norm and head stay float32, because scores of half precision tie."""
    needed = [Needed(f"{PREFIX}layer_tokens")]
    for layer in range(shape.layers):
        needed += decoder_layer(spec.decoder, f"{PREFIX}layers.{layer}")
    needed.append(Needed(f"{PREFIX}norm.weight", float32=True))
    return (*needed, Needed(f"{PREFIX}head.weight", linear=True, float32=True))


def router_graph(spec: ModelSpec, shape: RouterShape, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the graph from a prompt to token_scores [B, N] and layer_scores [B, M], both float32."""
    graph = GraphWriter("router", weights, dtype)
    prompt_inputs(graph, spec, "B")
    embeddings = prompt_embedding(graph)
    sequence = _sequence(graph, embeddings)
    hidden = graph.node("Concat", [embeddings, _layer_tokens(graph, spec)], "sequence", axis=1)
    rotated = rotation(graph, spec.decoder, _positions(graph, spec, embeddings, sequence))
    mask = _mask(graph, shape.attention, hidden, sequence)
    for layer in range(shape.layers):
        with graph.scope(f"router.{layer}"):
            hidden, _ = prompt_layer(graph, Layer(spec.decoder, f"{PREFIX}layers.{layer}"), hidden, rotated, mask)
        graph.annotate(hidden, dtype, ["B", "Q", spec.decoder.hidden])
    first = graph.size(tensors.PREFIX_IDS, 1, "first")
    after = graph.node("Add", [first, graph.ints(spec.image_tokens)], "after")
    limit = graph.ints(2**62)
    for name, count, start, end in (
        (tensors.TOKEN_SCORES, spec.image_tokens, first, after),
        (tensors.LAYER_SCORES, spec.decoder.layers, sequence.rows, limit),
    ):
        with graph.scope(name):
            part = graph.node("Slice", [hidden, start, end, graph.ints(1)], "rows")
            scores = _scores(graph, spec, part)
        graph.output(name, _F32, ["B", count], scores)
    return graph.model()


def _sequence(graph: GraphWriter, embeddings: str) -> _Sequence:
    rows, padded = graph.size(embeddings, 1, "rows"), graph.size(tensors.SUFFIX_IDS, 1, "padded")
    before = graph.node("Sub", [rows, padded], "before")
    return _Sequence(rows, graph.node("Add", [before, tensors.SUFFIX_LENGTHS], "ends"))


def _layer_tokens(graph: GraphWriter, spec: ModelSpec) -> str:
    shape = graph.node(
        "Concat",
        [graph.size(tensors.SUFFIX_IDS, 0, "batch"), graph.ints(spec.decoder.layers, spec.decoder.hidden)],
        "layer_tokens_shape",
        axis=0,
    )
    return graph.node("Expand", [graph.weight(f"{PREFIX}layer_tokens"), shape], "layer_tokens")


def _positions(graph: GraphWriter, spec: ModelSpec, embeddings: str, sequence: _Sequence) -> str:
    """Returns positions [B, Q]: layer token j follows the last real row, wherever it is."""
    numbers = graph.node("Range", [graph.int(0), graph.int(spec.decoder.layers), graph.int(1)], "layer_numbers")
    last = graph.node("Add", [graph.node("Unsqueeze", [sequence.ends, graph.ints(1)], "ends_column"), numbers], "last")
    return graph.node("Concat", [row_numbers(graph, embeddings), last], "all_positions", axis=1)


def _mask(graph: GraphWriter, attention: AttentionKind, hidden: str, sequence: _Sequence) -> str:
    """Returns bool [B, 1, Q, Q], True where a row may see a column: all but the padding, causally or not."""
    with graph.scope("mask"):
        count = graph.size(hidden, 1, "count")
        every = graph.node("Range", [graph.int(0), graph.node("Squeeze", [count], "limit"), graph.int(1)], "every")
        ends = graph.node("Unsqueeze", [sequence.ends, graph.ints(1)], "ends")
        real = graph.node("Less", [every, ends], "real")
        layer_token = graph.node("GreaterOrEqual", [every, sequence.rows], "layer_token")
        column = graph.node("Or", [real, layer_token], "column")
        wide = graph.node("Unsqueeze", [column, graph.ints(1, 2)], "wide")
        square = graph.node("Concat", [count, count], "square", axis=0)
        if attention == "causal":
            rows = graph.node("Unsqueeze", [every, graph.ints(1)], "rows")
            return graph.node("And", [wide, graph.node("LessOrEqual", [every, rows], "earlier")], "seen")
        return graph.node("Expand", [wide, square], "seen")


def _scores(graph: GraphWriter, spec: ModelSpec, rows: str) -> str:
    """Returns float32 scores [B, R] of rows [B, R, H]."""
    exact = graph.cast(rows, _F32, "rows_f32")
    normed = rms_norm(graph, exact, f"{PREFIX}norm.weight", spec.decoder.norm_eps, "norm")
    scores = graph.node("MatMul", [normed, graph.weight(f"{PREFIX}head.weight")], "head")
    return graph.node("Squeeze", [scores, graph.ints(-1)], "scores")
