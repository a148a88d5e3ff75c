"""The vision graph: pixels become image tokens in the decoder's width.

A CLIP or SigLIP tower as far as its features are used, the selection of rows, and the projector.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.export.graph.layers import activation, linear
from allrounder.export.graph.writer import GraphWriter, Placed
from allrounder.vlm.spec import ModelSpec, VisionSpec

__all__ = ["vision_graph"]


def vision_graph(spec: ModelSpec, weights: Mapping[str, Placed], dtype: int) -> onnx.ModelProto:
    """Returns the graph from float32 pixels [B, 3, size, size] to image tokens [N, H], image after image."""
    graph = GraphWriter("vision", weights, dtype)
    vision, size = spec.vision, spec.vision.image_size
    pixels = graph.input(tensors.PIXEL_VALUES, TensorProto.FLOAT, ["B", 3, size, size])
    states = [_embeddings(graph, vision, graph.cast(pixels, dtype, "pixels", TensorProto.FLOAT))]
    for layer in range(max(vision.feature_layers)):
        with graph.scope(f"vision.{layer}"):
            states.append(_layer(graph, vision, f"vision.encoder.layers.{layer}", states[-1]))
        graph.annotate(states[-1], dtype, ["B", vision.rows, vision.hidden])
    features = [states[layer] for layer in vision.feature_layers]
    if vision.drop_first:
        cut = [graph.ints(1), graph.ints(vision.rows), graph.ints(1)]
        features = [graph.node("Slice", [feature, *cut], "features") for feature in features]
    joined = graph.node("Concat", features, "joined", axis=-1) if len(features) > 1 else features[0]
    bias = spec.projector.bias
    first = linear(graph, joined, "projector.linear_1", "projector.1", bias=bias)
    active = activation(graph, spec.projector.activation, first, "projector.activated")
    tokens = linear(graph, active, "projector.linear_2", "projector.2", bias=bias)
    rows = graph.node("Reshape", [tokens, graph.ints(-1, spec.decoder.hidden)], "image_rows")
    graph.output(tensors.IMAGE_EMBEDS, dtype, ["N", spec.decoder.hidden], rows)
    return graph.model()


def _embeddings(graph: GraphWriter, spec: VisionSpec, pixels: str) -> str:
    """Returns patch rows with position embeddings, [B, rows, hidden]; CLIP's class token comes first."""
    prefix = "vision.embeddings"
    inputs = [pixels, graph.weight(f"{prefix}.patch_embedding.weight")]
    if not spec.class_token:
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
        return _norm(graph, spec, rows, "vision.pre_layrnorm", "normed") if spec.class_token else rows


def _layer(graph: GraphWriter, spec: VisionSpec, prefix: str, rows: str) -> str:
    normed = _norm(graph, spec, rows, f"{prefix}.layer_norm1", "attn.norm")
    heads = [linear(graph, normed, f"{prefix}.self_attn.{part}_proj", f"attn.{part}", bias=True) for part in "qkv"]
    mixed = graph.node("Attention", heads, "attn.heads", q_num_heads=spec.heads, kv_num_heads=spec.heads)
    out = linear(graph, mixed, f"{prefix}.self_attn.out_proj", "attn.out", bias=True)
    between = graph.node("Add", [rows, out], "attn.residual")
    normed = _norm(graph, spec, between, f"{prefix}.layer_norm2", "mlp.norm")
    wide = linear(graph, normed, f"{prefix}.mlp.fc1", "mlp.fc1", bias=True)
    active = activation(graph, spec.activation, wide, "mlp.activated")
    narrow = linear(graph, active, f"{prefix}.mlp.fc2", "mlp.fc2", bias=True)
    return graph.node("Add", [between, narrow], "hidden")


def _norm(graph: GraphWriter, spec: VisionSpec, rows: str, weight: str, name: str) -> str:
    inputs = [rows, graph.weight(f"{weight}.weight"), graph.weight(f"{weight}.bias")]
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=spec.norm_eps)
