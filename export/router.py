"""The router graph: a prompt becomes token scores and layer scores.

It is the meta-router's layers over ``[the prompt's rows | M layer tokens]``, its norm and its head; scores are float32
in every precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.layers import Layer, embed, rms_norm, rotation, router_layer, seen_parts
from allrounder.export.graph.writer import GraphWriter, Placed
from allrounder.export.weights.layout import Needed, decoder_layer
from allrounder.router.model import AttentionKind, Scope
from allrounder.vlm.spec import ModelSpec

__all__ = ["PREFIX", "RouterShape", "router_graph", "router_tensors"]

PREFIX = "router."  # before the names of the router's own state dict
_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
_PARTS = 8  # of attention, where there are as many rows: as there are layer tokens at least
_TEXT = -1  # the image of rows that belong to none


class RouterShape(NamedTuple):
    """What a router graph depends on besides the model."""

    attention: AttentionKind
    layers: int
    scope: Scope


def router_tensors(spec: ModelSpec, shape: RouterShape) -> tuple[Needed, ...]:
    """Returns the tensors of a router; norm and head stay float32, because scores of half precision tie."""
    needed = [Needed(f"{PREFIX}layer_tokens")]
    for layer in range(shape.layers):
        needed += decoder_layer(spec.decoder, f"{PREFIX}layers.{layer}")
    needed.append(Needed(f"{PREFIX}norm.weight", float32=True))
    return (*needed, Needed(f"{PREFIX}head.weight", linear=True, float32=True))


def router_graph(spec: ModelSpec, shape: RouterShape, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the graph from one prompt to token_scores [N] and layer_scores [M], both float32."""
    graph = GraphWriter("router", weights, dtype)
    graph.input(tensors.INPUT_IDS, _I64, [1, "S"])
    graph.input(tensors.IMAGE_EMBEDS, dtype, ["N", spec.decoder.hidden])
    graph.input(tensors.IMAGE_INDEX, _I64, ["N"])
    graph.input(tensors.IMAGE_OF, _I64, ["N"])
    graph.input(tensors.POSITION_IDS, _I64, [1, 1, "S"])
    embeddings = embed(graph, spec.decoder)
    tokens = graph.node("Unsqueeze", [graph.weight(f"{PREFIX}layer_tokens"), graph.ints(0)], "layer_tokens")
    hidden = graph.node("Concat", [embeddings, tokens], "sequence", axis=1)
    images = _images(graph)
    rotated = rotation(graph, spec.decoder, _position_ids(graph, spec, shape))
    seen = seen_parts(graph, _mask(graph, shape, hidden, images), min(_PARTS, spec.decoder.layers))
    for layer in range(shape.layers):
        with graph.scope(f"router.{layer}"):
            hidden = router_layer(graph, Layer(spec.decoder, f"{PREFIX}layers.{layer}"), hidden, rotated, seen)
        graph.annotate(hidden, dtype, [1, "Q", spec.decoder.hidden])
    rows = graph.node("Squeeze", [hidden, graph.ints(0)], "scored")
    with graph.scope(tensors.TOKEN_SCORES):
        part = graph.node("Gather", [rows, tensors.IMAGE_INDEX], "rows", axis=0)
        graph.output(tensors.TOKEN_SCORES, _F32, ["N"], _scores(graph, spec, part))
    with graph.scope(tensors.LAYER_SCORES):
        ends = graph.ints(-spec.decoder.layers), graph.ints(2**62), graph.ints(0)
        part = graph.node("Slice", [rows, *ends], "rows")
        graph.output(tensors.LAYER_SCORES, _F32, [spec.decoder.layers], _scores(graph, spec, part))
    return graph.model()


def _images(graph: GraphWriter) -> str:
    """Returns int64 [S]: whose image token a row of the prompt is, or `_TEXT`."""
    with graph.scope("images"):
        text = graph.node("Expand", [graph.int(_TEXT), graph.size(tensors.INPUT_IDS, 1, "count")], "text")
        places = graph.node("Unsqueeze", [tensors.IMAGE_INDEX, graph.ints(1)], "places")
        return graph.node("ScatterND", [text, places, tensors.IMAGE_OF], "of_row")


def _position_ids(graph: GraphWriter, spec: ModelSpec, shape: RouterShape) -> str:
    """Returns position ids [1, 1, Q]: layer token j follows the last position of the prompt."""
    with graph.scope("positions"):
        prompt = _image_positions(graph) if shape.scope == "image" else tensors.POSITION_IDS
        # The last row of a prompt is text and has its largest position, in either scope.
        last = graph.node("ReduceMax", [tensors.POSITION_IDS, graph.ints(0, 1, 2)], "last", keepdims=1)
        numbers = graph.constant(np.arange(1, spec.decoder.layers + 1)[None, None], "layer_numbers")
        return graph.node("Concat", [prompt, graph.node("Add", [last, numbers], "layers")], "all", axis=2)


def _image_positions(graph: GraphWriter) -> str:
    """Returns position ids [1, 1, S] in which the tokens of each image count from 0."""
    numbers = graph.node("Range", [graph.int(0), graph.node("Size", [tensors.IMAGE_OF], "n"), graph.int(1)], "numbers")
    own, other = (
        [graph.node("Unsqueeze", [value, graph.ints(axis)], name) for value in (tensors.IMAGE_OF, numbers)]
        for axis, name in ((1, "own"), (0, "other"))
    )
    same = graph.node("Equal", [own[0], other[0]], "same")
    before = graph.node("And", [same, graph.node("Less", [other[1], own[1]], "earlier")], "before")
    counted = graph.node(
        "ReduceSum", [graph.cast(before, _I64, "counted", TensorProto.BOOL), graph.ints(1)], "within", keepdims=0
    )
    flat = graph.node("Reshape", [tensors.POSITION_IDS, graph.ints(-1)], "flat")
    places = graph.node("Unsqueeze", [tensors.IMAGE_INDEX, graph.ints(1)], "places")
    return graph.node("Reshape", [graph.node("ScatterND", [flat, places, counted], "put"), graph.ints(1, 1, -1)], "own")


def _mask(graph: GraphWriter, shape: RouterShape, hidden: str, images: str) -> str:
    """Returns bool [1, 1, Q, Q], True where a row may see a column."""
    with graph.scope("mask"):
        count = graph.size(hidden, 1, "count")
        limit = graph.node("Squeeze", [count], "limit")
        every = graph.node("Range", [graph.int(0), limit, graph.int(1)], "every")
        column, row = (graph.node("Unsqueeze", [every, graph.ints(axis)], f"every_{axis}") for axis in (0, 1))
        # `column >= 0` is true everywhere: it spreads to the full square.
        seen = graph.node("LessOrEqual", [column, row], "earlier")
        if shape.attention == "bidirectional":
            seen = graph.node("Or", [seen, graph.node("GreaterOrEqual", [column, graph.int(0)], "any")], "all")
        if shape.scope == "image":
            layers = graph.node("Sub", [count, graph.size(images, 0, "rows")], "layer_count")
            text = graph.node("Expand", [graph.int(_TEXT), layers], "layer_images")
            of = graph.node("Concat", [images, text], "of", axis=0)
            own, other = (graph.node("Unsqueeze", [of, graph.ints(axis)], f"of_{axis}") for axis in (1, 0))
            free = graph.node(
                "Or",
                [
                    graph.node("Equal", [own, graph.int(_TEXT)], "is_text"),
                    graph.node("Equal", [own, other], "own_image"),
                ],
                "free",
            )
            seen = graph.node("And", [seen, free], "scoped")
        return graph.node("Unsqueeze", [seen, graph.ints(0, 1)], "seen")


def _scores(graph: GraphWriter, spec: ModelSpec, rows: str) -> str:
    """Returns float32 scores [R] of rows [R, H]."""
    exact = graph.cast(rows, _F32, "rows_f32")
    normed = rms_norm(graph, exact, f"{PREFIX}norm.weight", spec.decoder.norm_eps, "norm")
    scores = graph.node("MatMul", [normed, graph.weight(f"{PREFIX}head.weight")], "head")
    return graph.node("Squeeze", [scores, graph.ints(-1)], "scores")
