"""Frozen graphs as TensorRT's ONNX parser reads them.

The rules were read in the parser's sources and NVIDIA's pages, and not run (10.15 to 11.1):

- `TensorScatter` becomes a KV cache update only where the cache is an input of the network with a static number of
  slots, and the result an output of it. So caches get the capacity of the bundle's limits.
- `Attention` is imported without its lengths (`nonpad_kv_seqlen`), silently, and causal from the upper left. So the
  lengths become a mask, as in flat copies.
- `Attention` in parts of its queries ends TensorRT-RTX 1.7.1's build in a segmentation fault, and saves nothing in
  a fused kernel. So it becomes whole again.
- `Attention` must be one fused kernel, or the build fails, unless the node says that it may be several.
- Every size follows from the sizes of the inputs: what depends on values ends the capture of work, and `NonZero` makes
  each step wait. So two numbers come as the length of an input whose values nobody reads: how many rows' logits are
  wanted (`logits_to_keep` [Q]), and how many image tokens stay (`TOKENS_TO_KEEP` [T]).
- Local functions are expanded by the parser, or a plugin takes their place: the gather stays one. Here and in the
  plugin it has one input more than its declaration, `TOKENS_TO_KEEP`, so that its sizes follow from lengths too.

All but the last line of `parsed_form` is ONNX and runs in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from allrounder.engines.graphs.flat import masked_attention, takes_lengths
from allrounder.engines.graphs.nodes import Nodes
from allrounder.errors import GraphInvalid
from allrounder.gather import TOKEN_GATHER
from allrounder.tensors import LOGITS_TO_KEEP

__all__ = ["TOKENS_TO_KEEP", "dynamic_inputs", "parsed_form", "static_form"]

TOKENS_TO_KEEP = "tokens_to_keep"  # int64 [T], of which the length alone counts; added input where tokens are pruned

_QUERY, _MASK = 0, 3  # inputs of `Attention`


def parsed_form(model: onnx.ModelProto, extents: Mapping[str, int]) -> onnx.ModelProto:
    """Returns what TensorRT's parser is given; see `static_form` for ``extents``."""
    form = static_form(model, extents)
    for node in form.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("TRT_decomposable", 1))
    return form


def static_form(model: onnx.ModelProto, extents: Mapping[str, int]) -> onnx.ModelProto:
    """Returns ``model`` with static caches, masks in place of lengths, and sizes that come from sizes alone.

    Args:
        model: A frozen graph without `If` nodes; weights stay references.
        extents: Which of the graph's named extents become numbers, the caches' among them.

    Raises:
        GraphInvalid: The graph chooses layers per input.
    """
    form = onnx.ModelProto.FromString(model.SerializeToString(deterministic=True))
    graph = form.graph
    if any(node.op_type == "If" for node in graph.node):
        raise GraphInvalid("TensorRT engines hold no If", where=graph.name, wanted="a static layer policy")
    _fix(graph, extents)
    _size_gather(form)
    _make_attention_whole(graph)
    nodes: list[onnx.NodeProto] = []
    masks: dict[str, str] = {}
    for node in graph.node:
        if LOGITS_TO_KEEP in node.input:
            nodes += _sized(node)
        else:
            nodes += masked_attention(node, masks) if takes_lengths(node) else [node]
    _set_nodes(graph, nodes)
    for value in graph.input:
        if value.name == LOGITS_TO_KEEP:
            value.type.tensor_type.shape.dim[0].dim_param = "Q"
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


def _make_attention_whole(graph: onnx.GraphProto) -> None:
    """Puts one `Attention` in the place of those over slices of queries and masks that a `Concat` joins."""
    made = {output: node for node in graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        parts = [made.get(name) for name in node.input]
        if node.op_type == "Concat" and all(part and part.op_type == "Attention" for part in parts):
            whole = onnx.NodeProto.FromString(made[node.input[0]].SerializeToString())
            for place in (_QUERY, _MASK):
                whole.input[place] = made[whole.input[place]].input[0]
            whole.output[0] = node.output[0]
            nodes.append(whole)
        else:
            nodes.append(node)
    _set_nodes(graph, _used(nodes, graph))


def _used(nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Returns the nodes that an output of the graph follows from."""
    wanted = {value.name for value in graph.output}
    used = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            used.append(node)
            wanted |= set(node.input)
    return used[::-1]


def _sized(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Reads how many rows are wanted from the length of their input."""
    nodes = Nodes(node)
    count = nodes.add("Shape", [LOGITS_TO_KEEP], "count")
    reads = [count if name == LOGITS_TO_KEEP else name for name in node.input]
    changed = onnx.NodeProto.FromString(node.SerializeToString())
    del changed.input[:]
    changed.input.extend(reads)
    return [*nodes.nodes, changed]


def _size_gather(form: onnx.ModelProto) -> None:
    """Gives the gather, where there is one, the input `TOKENS_TO_KEEP`, whose length its sizes follow from."""
    functions = [function for function in form.functions if function.name == TOKEN_GATHER.name]
    for function in functions:
        nodes: list[onnx.NodeProto] = []
        for node in function.node:
            nodes += _listed(node) if node.op_type == "NonZero" else [node]
        _set_nodes(function, nodes)
        function.input.append(TOKENS_TO_KEEP)
    for node in form.graph.node:
        if node.op_type == TOKEN_GATHER.name:
            node.input.append(TOKENS_TO_KEEP)
    if functions:
        form.graph.input.append(helper.make_tensor_value_info(TOKENS_TO_KEEP, TensorProto.INT64, ["T"]))


def _listed(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Lists the true ones of ``flags`` [n], all but N - T of which are true: each goes to the place of its number."""
    flags = node.input[0]
    nodes = Nodes(node)
    total, tokens, kept = (
        nodes.size(value, 0, name) for value, name in ((flags, "n"), ("scores", "tokens"), (TOKENS_TO_KEEP, "kept"))
    )
    count = nodes.add("Add", [nodes.add("Sub", [total, tokens], "others"), kept], "count")
    numbers = nodes.add("Cast", [flags], "numbers", to=TensorProto.INT64)
    number = nodes.add("CumSum", [numbers, nodes.ints("axis", [0], scalar=True)], "number", exclusive=1)
    places = nodes.lift(nodes.add("Where", [flags, number, count], "place"), [1], "places")  # the others end up behind
    row = nodes.lift(count, [0], "end")
    room = nodes.add("Add", [row, nodes.ints("one", [1])], "room")
    empty = nodes.add("Expand", [nodes.ints("zero", [0]), room], "empty")
    filled = nodes.add("ScatterND", [empty, places, nodes.count(total, "rows")], "filled")
    first = nodes.add("Slice", [filled, nodes.ints("begin", [0]), row], "first")
    lifted = helper.make_node("Unsqueeze", [first, nodes.ints("rank", [0])], list(node.output), name=node.name)
    return [*nodes.nodes, lifted]


def _set_nodes(graph: onnx.GraphProto | onnx.FunctionProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
