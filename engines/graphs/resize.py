"""`Resize` of images as matrix products, one for each axis, in ops that every runtime has.

They do what Pillow does, and `Resize` with antialiasing: triangle and cubic (a = -0.5) filters, whose width grows with
the reduction; weights that fall outside the image count for nothing, and rows are rounded to whole steps before columns
are filtered.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from allrounder.engines.graphs.nodes import Nodes

__all__ = ["resize"]


def resize(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Returns what replaces ``node``: uint8 [1, 3, height, width] to the ``sizes`` of its ``axes``, antialiased."""
    image, sizes = node.input[0], node.input[3]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes["antialias"], "the exporter writes no other Resize"
    mode = attributes["mode"].decode()
    nodes = Nodes(node)
    values = nodes.add("Cast", [image], "values", to=TensorProto.FLOAT)
    for place, axis in reversed(list(enumerate(attributes["axes"]))):  # rows first
        name = {2: "down", 3: "across"}[axis]
        before, after = nodes.size(image, axis, f"{name}_extent"), _part(nodes, sizes, place)
        weights = _weights(nodes, mode, before, after, name)
        if axis == 3:
            factors = [values, nodes.add("Transpose", [weights], "across_t", perm=[1, 0])]
        else:
            factors = [weights, values]
        values = _steps(nodes, nodes.add("MatMul", factors, f"{name}_sums"), f"{name}_whole")
    cast = onnx.helper.make_node("Cast", [values], list(node.output), name=node.name, to=TensorProto.UINT8)
    return [*nodes.nodes, cast]


def _part(nodes: Nodes, sizes: str, index: int) -> str:
    return nodes.add("Gather", [sizes, nodes.ints(f"which_{index}", [index], scalar=True)], f"size_{index}")


def _steps(nodes: Nodes, values: str, name: str) -> str:
    """Rounds half up and clips to 0 to 255, as Pillow does."""
    whole = nodes.add("Floor", [nodes.add("Add", [values, nodes.number(f"{name}_half", 0.5)], f"{name}_up")], name)
    limits = [nodes.number(f"{name}_{part}", limit) for part, limit in (("low", 0.0), ("high", 255.0))]
    return nodes.add("Clip", [whole, *limits], f"{name}_clipped")


def _weights(nodes: Nodes, mode: str, before: str, after: str, name: str) -> str:
    """Returns [after, before] float32: how much each old pixel counts for each new one; each row sums to 1."""

    def do(op: str, *inputs: str, to: str) -> str:
        return nodes.add(op, inputs, f"{name}_{to}")

    def number(value: float, to: str) -> str:
        return nodes.number(f"{name}_{to}", value)

    def middles(count: str, to: str) -> str:
        places = nodes.add("Cast", [nodes.count(count, f"{name}_{to}")], f"{name}_{to}_f", to=TensorProto.FLOAT)
        return do("Add", places, number(0.5, f"{to}_half"), to=f"{to}_middle")

    lengths = [
        nodes.add("Cast", [length], f"{name}_{to}_f", to=TensorProto.FLOAT)
        for to, length in (("before", before), ("after", after))
    ]
    scale = do("Div", *lengths, to="scale")
    stretch = do("Max", scale, number(1.0, "one"), to="stretch")
    centres = nodes.lift(do("Mul", middles(after, "new"), scale, to="centre"), [1], f"{name}_centres")
    distance = do("Abs", do("Sub", middles(before, "old"), centres, to="offset"), to="distance")
    share = _FILTERS[mode](nodes, do("Div", distance, stretch, to="relative"), name)
    total = nodes.add("ReduceSum", [share, nodes.ints(f"{name}_axis", [1])], f"{name}_total", keepdims=1)
    return do("Div", share, total, to="weights")


def _triangle(nodes: Nodes, distance: str, name: str) -> str:
    falling = nodes.add("Sub", [nodes.number(f"{name}_top", 1.0), distance], f"{name}_falling")
    return nodes.add("Relu", [falling], f"{name}_share")


def _cubic(nodes: Nodes, distance: str, name: str) -> str:
    """Keys' cubic with a = -0.5: 1.5 d^3 - 2.5 d^2 + 1 up to 1, -0.5 d^3 + 2.5 d^2 - 4 d + 2 up to 2, then 0."""

    def polynomial(coefficients: tuple[float, ...], to: str) -> str:
        value = nodes.number(f"{name}_{to}_0", coefficients[0])
        for power, coefficient in enumerate(coefficients[1:], 1):
            product = nodes.add("Mul", [value, distance], f"{name}_{to}_x{power}")
            value = nodes.add(
                "Add", [product, nodes.number(f"{name}_{to}_{power}", coefficient)], f"{name}_{to}_y{power}"
            )
        return value

    def below(limit: float, to: str) -> str:
        return nodes.add("Less", [distance, nodes.number(f"{name}_{to}_limit", limit)], f"{name}_{to}")

    near, far = polynomial((1.5, -2.5, 0.0, 1.0), "near"), polynomial((-0.5, 2.5, -4.0, 2.0), "far")
    outer = nodes.add("Where", [below(2.0, "outside"), far, nodes.number(f"{name}_zero", 0.0)], f"{name}_outer")
    return nodes.add("Where", [below(1.0, "inside"), near, outer], f"{name}_share")


_FILTERS = {"linear": _triangle, "cubic": _cubic}
