"""Flat copies: a graph in ops that runtimes other than ONNX Runtime know.

OpenVINO (2026.4) expands no local function, has no `TensorScatter` and no `Attention` with lengths, and on its first
run leaves a bfloat16 value unwritten that a branch of an `If` only hands on. Which of the bundle's graphs get a flat
copy, the backend says.

`TensorScatter` becomes `ScatterND`, and the lengths of `Attention` become a mask; a graph, or a branch of an `If`,
computes indices and masks once for all its layers. That copies whole caches and reads every place in them, so a flat
copy decodes slower than its graph; it computes the same.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import TensorProto, helper

from allrounder.engines.bundle.publish import Staging
from allrounder.engines.graphs.nodes import Nodes

__all__ = ["flat", "masked_attention", "takes_lengths", "write_flat_copy"]

_LENGTHS = 6  # the input of Attention that is `nonpad_kv_seqlen`


def write_flat_copy(staging: Staging, path: str) -> str:
    """Writes the flat copy of a staged graph beside it and returns its path."""
    flat_copy = path.removesuffix(".onnx") + ".flat.onnx"
    if flat_copy not in staging.files:  # names are by content: a flat copy of the same graph is the same
        model = onnx.load(staging.path / path, load_external_data=False)
        with staging.new_file(flat_copy) as write:
            write(_bytes(flat(model)))
    return flat_copy


def flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns ``model`` in plain standard ops; weights stay references to the same file."""
    plain = onnx.inliner.inline_local_functions(model) if model.functions else onnx.ModelProto.FromString(_bytes(model))
    standard = [opset for opset in plain.opset_import if opset.domain == ""]
    del plain.opset_import[:]
    plain.opset_import.extend(standard)
    _spell(plain.graph)
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in plain.graph.initializer):
        _round_again(plain.graph)
    return plain


def _bytes(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _spell(graph: onnx.GraphProto) -> None:
    """Replaces the two ops in a graph and in the branches of its `If` nodes."""
    nodes: list[onnx.NodeProto] = []
    places: dict[str, str] = {}
    masks: dict[str, str] = {}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _spell(attribute.g)
        if node.op_type == "TensorScatter":
            nodes += _scatter(node, places)
        elif takes_lengths(node):
            nodes += masked_attention(node, masks)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _scatter(node: onnx.NodeProto, places: dict[str, str]) -> list[onnx.NodeProto]:
    """Rows ``new`` [B, G, S, D] go into ``past`` [B, G, C, D] from place ``slots`` [B] on.

    ``places`` are this graph's index tensors so far, by the name of ``slots``: all of its layers write as many rows.
    """
    past, new, slots = node.input
    nodes = Nodes(node)
    if slots not in places:
        extent = nodes.add("Shape", [new], "extent", start=0, end=3)  # B, G, S
        batch = nodes.lift(nodes.count(nodes.size(new, 0, "batch"), "rows"), [1, 2], "row")
        heads = nodes.lift(nodes.count(nodes.size(new, 1, "heads"), "each_head"), [0, 2], "head")
        steps = nodes.lift(nodes.count(nodes.size(new, 2, "new_count"), "steps"), [0, 1], "step")
        place = nodes.add("Add", [nodes.lift(slots, [1, 2], "slot"), steps], "places")
        columns = [
            nodes.lift(nodes.add("Expand", [value, extent], f"{name}_everywhere"), [3], f"{name}_column")
            for name, value in (("row", batch), ("head", heads), ("place", place))
        ]
        places[slots] = nodes.add("Concat", columns, "indices", axis=3)
    scatter = helper.make_node("ScatterND", [past, places[slots], new], list(node.output), name=node.name)
    return [*nodes.nodes, scatter]


def _round_again(graph: onnx.GraphProto) -> None:
    """Widens and rounds again, to the same value, what the branches of the `If` nodes hand on as it is."""
    graphs = onnx.AttributeProto.GRAPH
    for branch in (attribute.g for node in graph.node for attribute in node.attribute if attribute.type == graphs):
        nodes: list[onnx.NodeProto] = []
        for node in branch.node:
            if node.op_type == "Identity":
                wide = f"{node.output[0]}/wide"
                nodes.append(helper.make_node("Cast", node.input, [wide], name=wide, to=TensorProto.FLOAT))
                nodes.append(helper.make_node("CastLike", [wide, node.input[0]], node.output, name=node.name))
            else:
                nodes.append(node)
        del branch.node[:]
        branch.node.extend(nodes)


def takes_lengths(node: onnx.NodeProto) -> bool:
    """Whether a node is an `Attention` that gets the lengths of its caches."""
    return node.op_type == "Attention" and len(node.input) > _LENGTHS and bool(node.input[_LENGTHS])


def masked_attention(node: onnx.NodeProto, masks: dict[str, str]) -> list[onnx.NodeProto]:
    """Returns what replaces such an `Attention`: new row i of S sees the places up to ``filled - S + i``.

    Args:
        node: The node.
        masks: The masks of this graph so far by the name of ``filled``, whose caches have one capacity; grows.
    """
    query, key, filled = node.input[0], node.input[1], node.input[_LENGTHS]
    nodes = Nodes(node)
    if filled not in masks:
        count = nodes.size(query, 2, "new_count")
        back = nodes.add("Sub", [nodes.count(count, "steps"), count], "back")
        last = nodes.add("Add", [nodes.lift(filled, [1], "filled_column"), back], "last")  # [B, S]
        places = nodes.count(nodes.size(key, 2, "capacity"), "places")
        masks[filled] = nodes.add("LessOrEqual", [places, nodes.lift(last, [1, 3], "last_column")], "seen")
    seen = masks[filled]  # [B, 1, S, C]
    masked = helper.make_node("Attention", [*node.input[:3], seen], list(node.output), name=node.name)
    masked.attribute.extend(attribute for attribute in node.attribute if attribute.name != "is_causal")
    return [*nodes.nodes, masked]
