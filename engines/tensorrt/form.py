"""Frozen graphs as TensorRT's ONNX parser reads them.

The rules were read in the parser's sources and NVIDIA's pages, and not run (10.15 to 11.1):

- `TensorScatter` becomes a KV cache update only where the cache is an input of the network with a static number of
  slots, and the result an output of it. So caches get the capacity of the bundle's limits, prefill pads to it, and the
  input `free_slots` leaves.
- `Attention` is imported without its lengths (`nonpad_kv_seqlen`), silently, and causal from the upper left. So the
  lengths become a mask, as in flat copies.
- `Attention` must be one fused kernel, or the build fails, unless the node says that it may be several.
- Local functions are expanded by the parser, or a plugin takes their place: the gather stays as it is.

All but the last line of `parsed_form` is ONNX and runs in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from allrounder.engines.graphs.flat import masked_attention, takes_lengths
from allrounder.engines.graphs.nodes import Nodes
from allrounder.errors import GraphInvalid
from allrounder.tensors import FREE_SLOTS

__all__ = ["dynamic_inputs", "parsed_form", "static_form"]

_SLOTS = 2  # the axis of a cache [B, G, C, D] that counts its slots


def parsed_form(model: onnx.ModelProto, extents: Mapping[str, int]) -> onnx.ModelProto:
    """Returns what TensorRT's parser is given; see `static_form` for ``extents``."""
    form = static_form(model, extents)
    for node in form.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("TRT_decomposable", 1))
    return form


def static_form(model: onnx.ModelProto, extents: Mapping[str, int]) -> onnx.ModelProto:
    """Returns ``model`` with static caches and masks in place of lengths; weights stay references.

    Args:
        model: A frozen graph without `If` nodes.
        extents: Which of the graph's named extents become numbers, the caches' among them.

    Raises:
        GraphInvalid: The graph chooses layers per input.
    """
    form = onnx.ModelProto.FromString(model.SerializeToString(deterministic=True))
    graph = form.graph
    if any(node.op_type == "If" for node in graph.node):
        raise GraphInvalid("TensorRT engines hold no If", where=graph.name, wanted="a static layer policy")
    _fix(graph, extents)
    _pad_to_capacity(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += masked_attention(node) if takes_lengths(node) else [node]
    _set_nodes(graph, nodes)
    return form


def dynamic_inputs(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Returns the shapes of those inputs that have an extent without a number; the names of these extents stay."""
    shapes = {value.name: _shape(value) for value in model.graph.input}
    return {name: shape for name, shape in shapes.items() if any(isinstance(extent, str) for extent in shape)}


def _fix(graph: onnx.GraphProto, extents: Mapping[str, int]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in extents:
                dim.dim_value = extents[dim.dim_param]  # takes the name's place


def _pad_to_capacity(graph: onnx.GraphProto) -> None:
    """Pads each cache to its own static number of slots, where it was padded by the input `free_slots`."""
    if all(value.name != FREE_SLOTS for value in graph.input):
        return
    capacities = {value.name: shape[_SLOTS] for value in graph.output if len(shape := _shape(value)) > _SLOTS}
    for node in graph.node:  # in bfloat16 caches are padded in float32
        if node.op_type == "Cast" and node.output[0] in capacities:
            capacities[node.input[0]] = capacities[node.output[0]]
    padded = {node.output[0] for node in graph.node if FREE_SLOTS in node.input}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in padded:
            continue
        if len(node.input) > 1 and node.input[1] in padded:
            capacity = capacities.get(node.output[0])
            if node.op_type != "Pad" or not isinstance(capacity, int):
                raise GraphInvalid("free slots go elsewhere than to caches", where=node.name, got=node.op_type)
            nodes += _padded(node, capacity)
        else:
            nodes.append(node)
    _set_nodes(graph, nodes)
    inputs = [value for value in graph.input if value.name != FREE_SLOTS]
    del graph.input[:]
    graph.input.extend(inputs)


def _padded(pad: onnx.NodeProto, capacity: int) -> list[onnx.NodeProto]:
    nodes = Nodes(pad)
    rows = nodes.add("Shape", [pad.input[0]], "rows", start=_SLOTS, end=_SLOTS + 1)
    free = nodes.add("Sub", [nodes.ints("capacity", [capacity]), rows], "free")
    pads = nodes.add("Concat", [nodes.ints("before", [0]), free], "pads", axis=0)
    filled = helper.make_node("Pad", [pad.input[0], pads, *pad.input[2:]], list(pad.output), name=pad.name)
    filled.attribute.extend(pad.attribute)
    return [*nodes.nodes, filled]


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
