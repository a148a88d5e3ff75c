"""Which files a graph needs beside itself: where the tensors of an ONNX file are, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx

from allrounder.errors import GraphInvalid

__all__ = ["external_tensors", "references"]


def references(file: Path, path: str) -> frozenset[str]:
    """Returns the paths, relative to the bundle as ``path`` is, of the weights files that a graph points into.

    Raises:
        GraphInvalid: It is not an ONNX file, or its data lies outside its own folder.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is private to its implementation
        raise GraphInvalid("a graph is not an ONNX file", where=file, got=error) from error
    tensors = external_tensors(model)
    locations = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    for location in locations:
        if ".." in PurePosixPath(location).parts or location.startswith("/") or "\\" in location:
            raise GraphInvalid("a graph's weights lie outside its folder", where=file, got=location)
    return frozenset(str(PurePosixPath(path).parent / location) for location in locations)


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Returns every tensor of a model whose data lies outside it, those of subgraphs and functions included."""
    tensors = [*_tensors(model.graph)]
    for function in model.functions:
        tensors += _of_nodes(function.node)
    return [tensor for tensor in tensors if tensor.external_data]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors(graph)
