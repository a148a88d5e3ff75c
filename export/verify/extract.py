"""Cutting pieces out of a frozen graph and running them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from allrounder.errors import GraphInvalid

__all__ = ["all_nodes", "extract", "run"]


def all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yields nodes and those inside their branches."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)


def extract(model: onnx.ModelProto, inputs: Mapping[str, int], outputs: Sequence[str]) -> onnx.ModelProto:
    """Returns the part of a model that computes ``outputs`` from ``inputs``; weights stay references.

    ``inputs`` are where it is cut, with their element types; those that nothing needs are left out.

    Raises:
        GraphInvalid: There is no such value, or it depends on something that is not among the inputs.
    """
    producers = {value: node for node in model.graph.node for value in node.output if value}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    needed, wanted = set(), list(outputs)
    used: set[str] = set()
    while wanted:
        value = wanted.pop()
        if not value or value in inputs:
            continue
        if value in initializers:
            used.add(value)
        elif value not in producers:
            raise GraphInvalid(
                "a value depends on what it should not, or is not there", where=model.graph.name, got=value
            )
        elif producers[value].name not in needed:
            needed.add(producers[value].name)
            wanted += _read(producers[value])
    nodes = [node for node in model.graph.node if node.name in needed]
    read = set(outputs).union(*map(_read, nodes))
    graph = helper.make_graph(
        nodes,
        "piece",
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in inputs.items() if name in read],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    return helper.make_model(
        graph, functions=list(model.functions), opset_imports=list(model.opset_import), ir_version=model.ir_version
    )


def run(piece: onnx.ModelProto, feeds: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """Runs a piece on the CPU and returns its outputs; weights are mapped from ``folder``, not copied.

    ``feeds`` may hold more than its inputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # TensorScatter warns that caches which are not bound are copied
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # pieces are short, and torch computes too
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(piece.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    given = {each.name: feeds[each.name] for each in session.get_inputs()}
    found: Any = session.run(names, given)  # no graph of ours has outputs that are not tensors
    return dict(zip(names, found, strict=True))


def _read(node: onnx.NodeProto) -> set[str]:
    """Returns the values from outside that a node reads, itself or in its branches."""
    values = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inside = {value for each in attribute.g.node for value in each.output}
            for each in attribute.g.node:
                values |= _read(each) - inside
            values |= {value.name for value in attribute.g.output} - inside
    return values - {""}
