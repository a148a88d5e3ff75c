"""Writing one ONNX graph, node by node.

A thin layer over `onnx.helper`, which knows nothing of models.

Values are strings. Their names are readable paths (`layers.3.attn.q`), because people read frozen graphs and `verify`
cuts them at these names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from allrounder import __version__

__all__ = ["IR_VERSION", "OPSET", "Dim", "GraphWriter", "Placed", "content_name", "serialized"]

OPSET = 24  # the first with TensorScatter and Attention's nonpad_kv_seqlen
IR_VERSION = 11  # ONNX Runtime 1.31 reads up to 11
FUNCTION_VERSION = 1  # of the domain `allrounder`

Dim = str | int


class Placed(NamedTuple):
    """Where a weight lies: a file relative to the graph's folder, an offset and a size in bytes."""

    location: str
    offset: int
    size: int
    dtype: int  # ONNX element type
    shape: tuple[int, ...]


@dataclass(slots=True)
class _Shared:
    """What a graph and the branches inside it have in common; initializers are all in the outer graph."""

    weights: Mapping[str, Placed]
    used: set[str] = field(default_factory=set)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)


class GraphWriter:
    """A graph under construction.

    ``dtype`` is the ONNX element type of weights, hidden rows and caches.
    """

    def __init__(self, name: str, weights: Mapping[str, Placed], dtype: int) -> None:
        self.name, self.dtype = name, dtype
        self._shared = _Shared(weights)
        self._scope: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._annotations: list[onnx.ValueInfoProto] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Puts ``name.`` before all names given inside."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def input(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Declares an input of the graph."""
        self._shared.used.add(name)
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[Dim], value: str | None = None) -> None:
        """Declares an output of the graph; ``value`` is renamed to it where it is not called so already."""
        if value is not None:
            self.rename(value, name)
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def rename(self, value: str, name: str) -> None:
        """Gives a value of this graph the exact name of an output; branches must not use it."""
        for node in self._nodes:
            for values in (node.input, node.output):
                for index, each in enumerate(values):
                    if each == value:
                        values[index] = name
            if node.name == value:
                node.name = name
        self._shared.used.add(name)

    def annotate(self, value: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Records the shape of an inner value for readers and for `verify`."""
        self._annotations.append(helper.make_tensor_value_info(value, dtype, list(shape)))
        return value

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, named after its scope and ``name``, and returns that output."""
        return self.nodes(op, inputs, (name,), **attributes)[0]

    def nodes(self, op: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Adds a node with one output per name and returns the outputs."""
        outputs = [self._fresh(name) for name in names]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return tuple(outputs)

    def weight(self, name: str) -> str:
        """Returns the value of a weight, which stays in its file."""
        if name not in self._shared.initializers:
            place = self._shared.weights[name]
            tensor = TensorProto(name=name, data_type=place.dtype, dims=place.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", place.location), ("offset", place.offset), ("length", place.size)):
                tensor.external_data.add(key=key, value=str(value))
            self._shared.initializers[name] = tensor
        return name

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Returns a small constant that is stored in the graph itself, each content once."""
        digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:10]
        full = f"{name}.{digest}"
        if full not in self._shared.initializers:
            self._shared.initializers[full] = numpy_helper.from_array(np.asarray(array, order="C"), full)
        return full

    def ints(self, *values: int) -> str:
        """Returns an int64 vector, for shapes, axes, starts and ends."""
        return self.constant(np.array(values, np.int64), "ints." + "_".join(map(str, values)))

    def int(self, value: int) -> str:
        """Returns an int64 scalar."""
        return self.constant(np.array(value, np.int64), f"int.{value}")

    def number(self, value: float, dtype: int | None = None) -> str:
        """Returns a scalar of the graph's dtype, or of ``dtype``."""
        kind = helper.tensor_dtype_to_np_dtype(dtype or self.dtype)
        return self.constant(np.array(value, kind), f"number.{value:g}")

    def zero(self) -> TensorProto:
        """Returns the attribute of `ConstantOfShape` that makes zeros of the graph's dtype."""
        return helper.make_tensor("zero", self.dtype, [1], [0])

    def cast(self, value: str, dtype: int, name: str, source: int | None = None) -> str:
        """Casts ``value`` of type ``source`` (default: the graph's) to ``dtype``, where they differ."""
        return value if dtype == (source or self.dtype) else self.node("Cast", [value], name, to=dtype)

    def size(self, value: str, axis: int, name: str) -> str:
        """Returns the extent of one axis as an int64 vector of one."""
        return self.node("Shape", [value], name, start=axis, end=axis + 1)

    def call(
        self, function: onnx.FunctionProto, inputs: Sequence[str], names: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a call of a model-local function and the function itself."""
        self._shared.functions[function.name] = function
        return self.nodes(function.name, inputs, names, domain=function.domain, **attributes)

    def choose(self, condition: str, run: Body, skip: Body, names: Sequence[str]) -> tuple[str, ...]:
        """Adds an `If` on a bool scalar; the bodies write its branches and return one value per name."""
        return self.nodes(
            "If", [condition], names, then_branch=self._branch("run", run), else_branch=self._branch("skip", skip)
        )

    def model(self) -> onnx.ModelProto:
        """Returns the finished model; its weights are references."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            list(self._shared.initializers.values()),
            value_info=self._annotations,
        )
        functions = list(self._shared.functions.values())
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(domain, FUNCTION_VERSION) for domain in sorted({f.domain for f in functions})]
        return helper.make_model(
            graph,
            functions=functions,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="allrounder",
            producer_version=__version__,
        )

    def _branch(self, name: str, body: Body) -> onnx.GraphProto:
        inner = GraphWriter(self._path(name), {}, self.dtype)
        inner._shared, inner._scope = self._shared, [*self._scope, name]
        outputs = [helper.make_empty_tensor_value_info(value) for value in body(inner)]
        return helper.make_graph(inner._nodes, inner.name, [], outputs)

    def _path(self, name: str) -> str:
        return ".".join([*self._scope, name])

    def _fresh(self, name: str) -> str:
        base = full = self._path(name)
        count = 1
        while full in self._shared.used:
            count += 1
            full = f"{base}.{count}"
        self._shared.used.add(full)
        return full


Body = Callable[[GraphWriter], Sequence[str]]


def serialized(model: onnx.ModelProto) -> bytes:
    """Returns the model's bytes; equal models give equal bytes."""
    return model.SerializeToString(deterministic=True)


def content_name(kind: str, data: bytes) -> str:
    """Returns the file name of a graph: its kind and what it contains, so that versions share equal ones."""
    return f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
