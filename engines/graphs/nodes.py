"""A list of ONNX nodes that grows, with short forms of what flat copies need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

__all__ = ["Nodes"]


class Nodes:
    """Nodes that take the place of one, their values named after its output."""

    def __init__(self, replaced: onnx.NodeProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._base = replaced.output[0]

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        output = f"{self._base}/{name}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def ints(self, name: str, numbers: Iterable[int], *, scalar: bool = False) -> str:
        values = list(numbers)
        tensor = helper.make_tensor(name, TensorProto.INT64, [] if scalar else [len(values)], values)
        return self.add("Constant", [], name, value=tensor)

    def number(self, name: str, value: float) -> str:
        return self.add("Constant", [], name, value=helper.make_tensor(name, TensorProto.FLOAT, [], [value]))

    def size(self, value: str, axis: int, name: str) -> str:
        """Returns one extent of a value as a scalar."""
        return self.add("Squeeze", [self.add("Shape", [value], f"{name}_1d", start=axis, end=axis + 1)], name)

    def count(self, limit: str, name: str) -> str:
        """Returns 0 to limit - 1."""
        first, step = (self.ints(f"{name}_{part}", [number], scalar=True) for part, number in (("from", 0), ("by", 1)))
        return self.add("Range", [first, limit, step], name)

    def lift(self, value: str, axes: Sequence[int], name: str) -> str:
        return self.add("Unsqueeze", [value, self.ints(f"{name}_axes", axes)], name)
