"""The flat twin of a graph, without model-local functions.

What it is: one call of onnx's inliner. What it knows: that OpenVINO, for one, does not expand local functions.
What it does not know: which functions there are.
"""

from __future__ import annotations

import onnx
from onnx import inliner

__all__ = ["inlined"]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with every call of a local function replaced by its body; weights stay references."""
    if not model.functions:
        return model
    flat = inliner.inline_local_functions(model)
    used = {node.domain for node in flat.graph.node}
    opsets = [opset for opset in flat.opset_import if opset.domain in used | {""}]
    del flat.opset_import[:]
    flat.opset_import.extend(opsets)
    return flat
