"""The vision graph: pixels become image tokens in the decoder's width.

A tower as far as its features are used, the selection of rows, those of a square merged into one where the model does
so, and the projector; where images are on canvases, each image token is put together of the tiles' rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.layers import activation, linear, rms_norm
from allrounder.export.graph.writer import GraphWriter, Placed
from allrounder.images.plan import ImagePlan
from allrounder.vlm.spec import ModelSpec, ProjectorSpec, VisionSpec

__all__ = ["PIXEL_VALUES", "vision_graph"]

QK_NORM_EPS = 1e-6  # InternVL's towers have no key for it
PIXEL_VALUES = "pixel_values"  # the value that a stock processor gives to its model


def vision_graph(spec: ModelSpec, plan: ImagePlan, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the graph from uint8 tiles [tiles, size, size, 3] to image tokens [N, H], image after image."""
    graph = GraphWriter("vision", weights, dtype)
    vision = spec.vision
    tiles = graph.input(tensors.TILES, TensorProto.UINT8, ["tiles", plan.size, plan.size, 3])
    pixels = _pixel_values(graph, plan, tiles)
    states = [_embeddings(graph, vision, graph.cast(pixels, dtype, "pixels", TensorProto.FLOAT))]
    for layer in range(max(vision.feature_layers)):
        with graph.scope(f"vision.{layer}"):
            states.append(_layer(graph, vision, f"vision.encoder.layers.{layer}", states[-1]))
        graph.annotate(states[-1], dtype, ["tiles", vision.rows, vision.hidden])
    features = [states[layer] for layer in vision.feature_layers]
    if vision.drop_first:
        cut = [graph.ints(1), graph.ints(vision.rows), graph.ints(1)]
        features = [graph.node("Slice", [feature, *cut], "features") for feature in features]
    if vision.last_norm:
        features = [_norm(graph, vision.norm_eps, feature, "vision.last_norm", "last_normed") for feature in features]
    joined = graph.node("Concat", features, "joined", axis=-1) if len(features) > 1 else features[0]
    tokens = _projected(graph, spec.projector, _merged(graph, vision, joined))
    rows = graph.node("Reshape", [tokens, graph.ints(-1, spec.decoder.hidden)], "image_rows")
    image_embeds = _laid_out(graph, rows, dtype, spec.decoder.hidden) if spec.newline else rows
    graph.output(tensors.IMAGE_EMBEDS, dtype, ["N", spec.decoder.hidden], image_embeds)
    return graph.model()


def _merged(graph: GraphWriter, spec: VisionSpec, features: str) -> str:
    """Returns one row [tiles, tokens, merge x merge x channels] of each square of patches, row by row within it.

    Source: ``pixel_shuffle`` of transformers' ``internvl`` and ``idefics3``.
    """
    if spec.merge == 1:
        return features
    side = spec.grid // spec.merge
    # A patch's channels stand behind those of its left neighbour already: what is left is to swap rows and squares.
    split = graph.node("Reshape", [features, graph.ints(-1, spec.merge, side, _channels(spec) * spec.merge)], "split")
    squares = graph.node("Transpose", [split], "squares", perm=[0, 2, 1, 3])
    return graph.node("Reshape", [squares, graph.ints(-1, side * side, _channels(spec) * spec.merge**2)], "merged")


def _channels(spec: VisionSpec) -> int:
    return spec.hidden * len(spec.feature_layers)


def _projected(graph: GraphWriter, spec: ProjectorSpec, rows: str) -> str:
    if spec.norm_eps is not None:
        rows = _norm(graph, spec.norm_eps, rows, "projector.layer_norm", "projector.norm")
    rows = linear(graph, rows, "projector.linear_1", "projector.1", bias=spec.bias)
    if spec.activation is None:
        return rows
    active = activation(graph, spec.activation, rows, "projector.activated")
    return linear(graph, active, "projector.linear_2", "projector.2", bias=spec.bias)


def _laid_out(graph: GraphWriter, rows: str, dtype: int, hidden: int) -> str:
    """Returns [N, hidden]: each image token a weighted sum of four rows, of all tiles' or the newline behind them."""
    places = graph.input(tensors.TOKEN_ROWS, TensorProto.INT64, ["N", 4])
    shares = graph.input(tensors.TOKEN_WEIGHTS, TensorProto.FLOAT, ["N", 4])
    newline = graph.node("Reshape", [graph.weight("projector.image_newline"), graph.ints(1, hidden)], "newline")
    table = graph.node("Concat", [rows, newline], "table", axis=0)
    four = graph.node("Gather", [table, places], "four_rows", axis=0)
    weights = graph.cast(shares, dtype, "shares", TensorProto.FLOAT)
    summed = graph.node("MatMul", [graph.node("Unsqueeze", [weights, graph.ints(1)], "weights"), four], "summed")
    return graph.node("Squeeze", [summed, graph.ints(1)], "image_tokens")


def _pixel_values(graph: GraphWriter, plan: ImagePlan, tiles: str) -> str:
    """Returns float32 [tiles, 3, size, size], rescaled and normalised in the stock processor's order."""
    floats = graph.node("Cast", [tiles], "bytes", to=TensorProto.FLOAT)  # first: TensorRT only casts uint8
    values = graph.node("Transpose", [floats], "channels_first", perm=[0, 3, 1, 2])
    for op, name, numbers in (("Mul", "scale", (plan.scale,)), ("Sub", "mean", plan.mean), ("Div", "std", plan.std)):
        column = graph.constant(np.array(numbers, np.float32).reshape(-1, 1, 1), name)
        values = graph.node(op, [values, column], PIXEL_VALUES if name == "std" else f"after_{name}")
    return values


def _embeddings(graph: GraphWriter, spec: VisionSpec, pixels: str) -> str:
    """Returns patch rows with position embeddings, [B, rows, hidden]; a class token comes first."""
    prefix = "vision.embeddings"
    inputs = [pixels, graph.weight(f"{prefix}.patch_embedding.weight")]
    if spec.patch_bias:
        inputs.append(graph.weight(f"{prefix}.patch_embedding.bias"))
    with graph.scope("vision"):
        side = spec.patch_size
        grid = graph.node("Conv", inputs, "patches", kernel_shape=[side, side], strides=[side, side])
        flat = graph.node("Reshape", [grid, graph.ints(0, spec.hidden, spec.grid * spec.grid)], "flat")
        rows = graph.node("Transpose", [flat], "patch_rows", perm=[0, 2, 1])
        if spec.class_token:
            batch = graph.size(rows, 0, "batch")
            shape = graph.node("Concat", [batch, graph.ints(1, spec.hidden)], "class_shape", axis=0)
            first = graph.node("Expand", [graph.weight(f"{prefix}.class_embedding"), shape], "class_rows")
            rows = graph.node("Concat", [first, rows], "all_rows", axis=1)
        rows = graph.node("Add", [rows, graph.weight(f"{prefix}.position_embedding.weight")], "positioned")
        # The misspelt name is that of CLIP's checkpoints.
        return _norm(graph, spec.norm_eps, rows, "vision.pre_layrnorm", "normed") if spec.pre_norm else rows


def _layer(graph: GraphWriter, spec: VisionSpec, prefix: str, rows: str) -> str:
    normed = _layer_norm(graph, spec, rows, f"{prefix}.layer_norm1", "attn.norm")
    heads = [
        linear(graph, normed, f"{prefix}.self_attn.{part}_proj", f"attn.{part}", bias=spec.qkv_bias) for part in "qkv"
    ]
    if spec.qk_norm:
        for index, part in enumerate("qk"):
            weight = f"{prefix}.self_attn.{part}_norm.weight"
            heads[index] = rms_norm(graph, heads[index], weight, QK_NORM_EPS, f"attn.{part}_normed")
    mixed = graph.node("Attention", heads, "attn.heads", q_num_heads=spec.heads, kv_num_heads=spec.heads)
    out = linear(graph, mixed, f"{prefix}.self_attn.out_proj", "attn.out", bias=True)
    between = graph.node("Add", [rows, _scaled(graph, spec, out, f"{prefix}.lambda_1", "attn.scaled")], "attn.residual")
    normed = _layer_norm(graph, spec, between, f"{prefix}.layer_norm2", "mlp.norm")
    wide = linear(graph, normed, f"{prefix}.mlp.fc1", "mlp.fc1", bias=True)
    active = activation(graph, spec.activation, wide, "mlp.activated")
    narrow = linear(graph, active, f"{prefix}.mlp.fc2", "mlp.fc2", bias=True)
    return graph.node("Add", [between, _scaled(graph, spec, narrow, f"{prefix}.lambda_2", "mlp.scaled")], "hidden")


def _scaled(graph: GraphWriter, spec: VisionSpec, added: str, weight: str, name: str) -> str:
    return graph.node("Mul", [added, graph.weight(weight)], name) if spec.layer_scale else added


def _layer_norm(graph: GraphWriter, spec: VisionSpec, rows: str, weight: str, name: str) -> str:
    if spec.rms_norm:
        return rms_norm(graph, rows, f"{weight}.weight", spec.norm_eps, name)
    return _norm(graph, spec.norm_eps, rows, weight, name)


def _norm(graph: GraphWriter, eps: float, rows: str, weight: str, name: str) -> str:
    inputs = [rows, graph.weight(f"{weight}.weight"), graph.weight(f"{weight}.bias")]
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=eps)
