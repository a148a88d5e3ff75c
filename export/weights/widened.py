"""A bfloat16 graph in float32, so that a CPU can run it.

The same nodes in float32, and after each one that computes, its result rounded to bfloat16 and back. That
is what ONNX Runtime itself makes of float16 on a CPU; of bfloat16 its CPU provider has hardly any kernel.

Names stay, so that a widened graph is cut where the graph itself is; inputs and outputs become float32. Weights stay
bfloat16 in their file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from allrounder.errors import GraphInvalid

__all__ = ["widened"]

_BF16, _F32 = TensorProto.BFLOAT16, TensorProto.FLOAT
# What they give was rounded before.
_MOVING = {
    *("Concat", "ConstantOfShape", "Expand", "Gather", "GatherND", "Identity", "If", "Pad", "Reshape", "ScatterND"),
    *("Slice", "Split", "Squeeze", "TensorScatter", "Transpose", "Unsqueeze", "Where"),
}


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns ``model`` in float32, rounded to bfloat16 after each step; one without weights or borders in it as it is.

    Raises:
        GraphInvalid: A value's type is unknown.
    """
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    if _BF16 not in kinds:
        return model
    typed = shape_inference.infer_shapes(inliner.inline_local_functions(model))
    types = _types(typed.graph, {})
    weights = [tensor for tensor in typed.graph.initializer if tensor.data_type == _BF16]
    _widen(typed.graph, types, {tensor.name: f"{tensor.name}.f32" for tensor in weights})
    nodes = [_cast(tensor.name, f"{tensor.name}.f32", _F32) for tensor in weights] + list(typed.graph.node)
    del typed.graph.node[:]
    typed.graph.node.extend(nodes)
    return typed


def _types(graph: onnx.GraphProto, outside: Mapping[str, int]) -> dict[str, int]:
    """Returns the element type of every value of a graph and of the branches in it."""
    types = dict(outside) | {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        for branch in _branches(node):
            types |= _types(branch, types)
    return types


def _widen(graph: onnx.GraphProto, types: Mapping[str, int], weights: Mapping[str, str]) -> None:
    """Widens a graph and its branches in place; ``weights`` says where a weight is in float32."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for branch in _branches(node):
            _widen(branch, types, weights)
        for index, name in enumerate(node.input):
            node.input[index] = weights.get(name, name)
        for attribute in node.attribute:
            _widen_attribute(attribute)
        nodes += [node] if node.op_type in _MOVING else _rounded(node, types, graph.name)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == _BF16:
            value.type.tensor_type.elem_type = _F32
    del graph.value_info[:]


def _rounded(node: onnx.NodeProto, types: Mapping[str, int], graph: str) -> list[onnx.NodeProto]:
    """Returns a node and, for each of its outputs in bfloat16, the two casts that round it."""
    nodes = [node]
    for index, name in enumerate(node.output):
        if name and not types.get(name):
            raise GraphInvalid("a value's type is unknown", where=f"{graph}: {name}", got=node.op_type)
        if types.get(name) == _BF16:
            node.output[index] = f"{name}.exact"
            nodes += [_cast(f"{name}.exact", f"{name}.rounded", _BF16), _cast(f"{name}.rounded", name, _F32)]
    return nodes


def _widen_attribute(attribute: onnx.AttributeProto) -> None:
    if attribute.name == "to" and attribute.i == _BF16:
        attribute.i = _F32
    if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _BF16:
        values = numpy_helper.to_array(attribute.t).astype(np.float32)
        attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def _branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)


def _cast(value: str, name: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [value], [name], name=f"{name}.cast", to=dtype)
