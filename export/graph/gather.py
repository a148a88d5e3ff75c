"""The gather as an ONNX model-local function: the body of ``allrounder::TokenGather`` in standard ops.

The rule is a rank: an image token stays where fewer tokens of its image are better (a higher score, or an equal one at
a lower index; NaN counts as -inf) than its image may keep.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

from allrounder.export.graph.writer import OPSET
from allrounder.gather import TOKEN_GATHER

__all__ = ["PLUGIN", "token_gather"]

# What TensorRT's parser reads from the node to find the plugin.
PLUGIN = {"plugin_namespace": TOKEN_GATHER.domain, "plugin_version": str(TOKEN_GATHER.version)}


def token_gather() -> onnx.FunctionProto:
    """Returns the function of `TOKEN_GATHER`."""
    inputs = [tensor.name for tensor in TOKEN_GATHER.inputs]
    outputs = [tensor.name for tensor in TOKEN_GATHER.outputs]
    return helper.make_function(
        TOKEN_GATHER.domain,
        TOKEN_GATHER.name,
        inputs,
        outputs,
        [*_constants(), *_stays(), *_rows()],
        [helper.make_opsetid("", OPSET)],
        list(TOKEN_GATHER.attributes),
    )


def _node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def _constants() -> list[NodeProto]:
    lowest = helper.make_tensor("lowest", TensorProto.FLOAT, [], [float("-inf")])
    true = helper.make_tensor("true", TensorProto.BOOL, [1], [True])
    return [
        _node("Constant", "", "lowest", value=lowest),
        _node("Constant", "", "true", value=true),
        _node("Constant", "", "first", value_int=0),
        _node("Constant", "", "step", value_int=1),
        _node("Constant", "", "rows_axis", value_ints=[0]),
        _node("Constant", "", "columns_axis", value_ints=[1]),
        _node("Constant", "", "everything", value_ints=[-1]),
    ]


def _stays() -> list[NodeProto]:
    """Gives ``stays`` bool [N]: row i of the comparisons is an image token, column j another that may be better."""
    return [
        _node("IsNaN", "scores", "unordered"),
        _node("Where", "unordered lowest scores", "ordered"),
        _node("Unsqueeze", "ordered columns_axis", "own_score"),
        _node("Unsqueeze", "ordered rows_axis", "other_score"),
        _node("Greater", "other_score own_score", "higher"),
        _node("Equal", "other_score own_score", "equal"),
        _node("Size", "scores", "count"),
        _node("Range", "first count step", "index"),
        _node("Unsqueeze", "index columns_axis", "own_index"),
        _node("Unsqueeze", "index rows_axis", "other_index"),
        _node("Less", "other_index own_index", "earlier"),
        _node("And", "equal earlier", "wins_tie"),
        _node("Or", "higher wins_tie", "wins"),
        _node("Unsqueeze", "image_of columns_axis", "own_image"),
        _node("Unsqueeze", "image_of rows_axis", "other_image"),
        _node("Equal", "own_image other_image", "same_image"),
        _node("And", "wins same_image", "better"),
        _node("Cast", "better", "better_number", to=TensorProto.INT32),
        _node("ReduceSum", "better_number columns_axis", "rank_number", keepdims=0),
        _node("Cast", "rank_number", "rank", to=TensorProto.INT64),
        _node("Gather", "keep_counts image_of", "budget"),
        _node("Less", "rank budget", "stays"),
    ]


def _rows() -> list[NodeProto]:
    """Gives the outputs; NonZero lists what stays in ascending order."""
    return [
        _node("NonZero", "stays", "kept_tokens"),
        _node("Reshape", "kept_tokens everything", "keep_indices"),
        _node("Shape", "hidden", "extent", start=1, end=2),
        _node("Expand", "true extent", "every_row"),
        _node("Unsqueeze", "image_index columns_axis", "places"),
        _node("ScatterND", "every_row places stays", "row_stays"),
        _node("NonZero", "row_stays", "kept_rows"),
        _node("Reshape", "kept_rows everything", "which"),
        _node("Gather", "hidden which", "gathered", axis=1),
        _node("Gather", "position_ids which", "gathered_position_ids", axis=2),
    ]
