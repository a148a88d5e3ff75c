"""What a frozen graph must look like.

Rules that can be read off a file without running it; what it computes is checked in `allrounder.export.verify`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, checker, external_data_helper, helper

from allrounder.errors import GraphInvalid
from allrounder.export.verify.extract import all_nodes
from allrounder.export.weights.layout import ALIGNMENT, FOLDER
from allrounder.gather import TOKEN_GATHER

__all__ = ["Rules", "check_graph"]

DOMAINS = {"", TOKEN_GATHER.domain}
LARGEST_INLINE = 1 << 16  # bytes: constants are in the graph, weights never are
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")


class Rules(NamedTuple):
    """What is expected of one graph.

    ``shapes`` holds the whole signature, in order: inputs, then outputs; None is a dynamic dimension.
    """

    inputs: Mapping[str, Sequence[int | None]]
    outputs: Mapping[str, Sequence[int | None]]
    attention: int  # number of Attention nodes, branches included
    layers: frozenset[int]  # decoder layers whose weights stand in the graph
    gathers: int = 0  # number of TokenGather nodes


def check_graph(path: Path, rules: Rules) -> onnx.ModelProto:
    """Checks a graph against its rules.

    Returns:
        The graph, its weights still references.

    Raises:
        GraphInvalid: Names graph, node or value.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        checker.check_model(_self_contained(model), full_check=True)
    except Exception as error:  # protobuf's DecodeError is private to its implementation; the checker has several
        raise GraphInvalid("not a valid ONNX graph", where=path.name, got=error) from error
    nodes = list(all_nodes(model.graph.node))
    _check_domains(path.name, model, nodes)
    _check_signature(path.name, model, rules)
    _check_weights(path, model, rules)
    attention = sum(node.op_type == "Attention" for node in nodes)
    _equal(path.name, "number of Attention nodes", attention, rules.attention)
    gathers = sum((node.domain, node.op_type) == (TOKEN_GATHER.domain, TOKEN_GATHER.name) for node in nodes)
    _equal(path.name, "number of TokenGather nodes", gathers, rules.gathers)
    return model


def _self_contained(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph with its outside weights as inputs.

    The checker takes a hard link to a weights file for an attack, and bundles are made of hard links; where weights
    may lie is checked by `_check_weights`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outside = [tensor for tensor in copy.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    for tensor in outside:
        copy.graph.initializer.remove(tensor)
        copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy


def _check_domains(name: str, model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    functions = [node for function in model.functions for node in function.node]
    for node in [*nodes, *functions]:
        if node.domain not in DOMAINS:
            raise GraphInvalid("an operator of a foreign domain", where=f"{name}: {node.name}", got=node.domain)
    foreign = {opset.domain for opset in model.opset_import} - DOMAINS
    if foreign:
        raise GraphInvalid("a foreign domain is imported", where=name, got=", ".join(sorted(foreign)))


def _check_signature(name: str, model: onnx.ModelProto, rules: Rules) -> None:
    for kind, found, wanted in (
        ("inputs", model.graph.input, rules.inputs),
        ("outputs", model.graph.output, rules.outputs),
    ):
        _equal(name, kind, [value.name for value in found], list(wanted))
        for value in found:
            _equal(name, f"static shape of {value.name}", _static(value), list(wanted[value.name]))


def _static(value: onnx.ValueInfoProto) -> list[int | None]:
    return [each.dim_value if each.HasField("dim_value") else None for each in value.type.tensor_type.shape.dim]


def _check_weights(path: Path, model: onnx.ModelProto, rules: Rules) -> None:
    present = set()
    for tensor in model.graph.initializer:
        layer = _LAYER.match(tensor.name)
        if layer:
            present.add(int(layer[1]))
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(path, tensor)
        elif tensor.ByteSize() > LARGEST_INLINE:
            raise GraphInvalid("a weight is inside the graph", where=f"{path.name}: {tensor.name}")
    if present != rules.layers:
        raise GraphInvalid(
            "weights of layers that are not kept, or none of some that are",
            where=path.name,
            got=sorted(present),
            wanted=sorted(rules.layers),
        )


def _check_external(path: Path, tensor: TensorProto) -> None:
    place = external_data_helper.ExternalDataInfo(tensor)
    where, file = f"{path.name}: {tensor.name}", path.parent / place.location
    offset, length = int(place.offset or 0), int(place.length or 0)
    if place.location != f"{FOLDER}/{file.name}":
        raise GraphInvalid("a weight lies elsewhere", where=where, got=place.location, wanted=f"a file in {FOLDER}/")
    if not file.is_file() or offset + length > file.stat().st_size:
        raise GraphInvalid("a weight lies outside its file", where=where, got=f"{place.location} {offset} + {length}")
    if offset % ALIGNMENT:
        raise GraphInvalid("a weight is not aligned", where=where, got=offset, wanted=f"a multiple of {ALIGNMENT}")
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    _equal(path.name, f"bytes of {tensor.name}", length, math.prod(tensor.dims) * itemsize)


def _equal(where: str, what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise GraphInvalid(f"wrong {what}", where=where, got=got, wanted=wanted)
