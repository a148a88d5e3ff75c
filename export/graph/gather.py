"""The gather as an ONNX model-local function.

Rows are taken with GatherND(batch_dims=1), never GatherElements, which is eight times slower on hidden rows.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from allrounder.export.graph.writer import OPSET
from allrounder.gather import TOKEN_GATHER

__all__ = ["PLUGIN", "token_gather"]

# What TensorRT's parser reads from the node to find the plugin.
PLUGIN = {"plugin_namespace": TOKEN_GATHER.domain, "plugin_version": str(TOKEN_GATHER.version)}


def token_gather() -> onnx.FunctionProto:
    """Returns the function: (hidden [B,N,H], scores f32 [B,N], positions i64 [B,N]) -> (rows, positions, keep)."""
    hidden, scores, positions = (tensor.name for tensor in TOKEN_GATHER.inputs)
    rows, kept_positions, keep = (tensor.name for tensor in TOKEN_GATHER.outputs)
    budget = helper.make_node("Constant", [], ["k_scalar"])
    budget.attribute.append(onnx.AttributeProto(name="value_int", type=onnx.AttributeProto.INT, ref_attr_name="k"))
    make = helper.make_node
    body = [
        budget,
        make("Constant", [], ["one"], value_ints=[1]),
        make("Constant", [], ["last"], value_ints=[-1]),
        make("Constant", [], ["lowest"], value=helper.make_tensor("lowest", TensorProto.FLOAT, [], [float("-inf")])),
        make("Reshape", ["k_scalar", "one"], ["k_vector"]),
        make("IsNaN", [scores], ["unordered"]),
        make("Where", ["unordered", "lowest", scores], ["ordered"]),
        # sorted=1: TensorRT refuses 0. Equal scores: ONNX's TopK takes the lower index.
        make("TopK", ["ordered", "k_vector"], ["best_scores", "best"], axis=-1, largest=1, sorted=1),
        make("TopK", ["best", "k_vector"], [keep, "unused"], axis=-1, largest=0, sorted=1),
        make("Unsqueeze", [keep, "last"], ["index"]),
        make("GatherND", [hidden, "index"], [rows], batch_dims=1),
        make("GatherND", [positions, "index"], [kept_positions], batch_dims=1),
    ]
    return helper.make_function(
        TOKEN_GATHER.domain,
        TOKEN_GATHER.name,
        [hidden, scores, positions],
        [rows, kept_positions, keep],
        body,
        [helper.make_opsetid("", OPSET)],
        list(TOKEN_GATHER.attributes),
    )
