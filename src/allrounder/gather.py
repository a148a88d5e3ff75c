"""The declaration of the one custom op, ``allrounder::TokenGather``.

The exporter, the native op and the TensorRT plugin are checked against it.

Rule: of the image tokens of each image i the ``keep_counts[i]`` best by ``scores`` [N] stay, ties going to the lower
index and NaN counting as -inf; the others leave ``hidden`` [B, S, H] and ``position_ids`` [A, B, S]. Rows that are no
image tokens stay; what stays keeps its order. ``image_index`` [N] names the image tokens' rows, ``image_of`` [N] their
images. With N = 0, for any B, everything stays; with N > 0, B is 1.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TOKEN_GATHER", "OpDeclaration", "OpTensor"]


class OpTensor(NamedTuple):
    """One input or output: ``dtype`` is an ONNX element type name, or T for that of ``hidden``."""

    name: str
    dtype: str
    shape: tuple[str, ...]


class OpDeclaration(NamedTuple):
    """A custom op as every backend has to declare it."""

    domain: str
    name: str
    version: int
    inputs: tuple[OpTensor, ...]
    outputs: tuple[OpTensor, ...]
    attributes: tuple[str, ...]


TOKEN_GATHER = OpDeclaration(
    domain="allrounder",
    name="TokenGather",
    version=1,
    inputs=(
        OpTensor("hidden", "T", ("B", "S", "H")),
        OpTensor("position_ids", "INT64", ("A", "B", "S")),
        OpTensor("scores", "FLOAT", ("N",)),
        OpTensor("image_index", "INT64", ("N",)),
        OpTensor("image_of", "INT64", ("N",)),
        OpTensor("keep_counts", "INT64", ("I",)),
    ),
    outputs=(
        OpTensor("gathered", "T", ("B", "R", "H")),
        OpTensor("gathered_position_ids", "INT64", ("A", "B", "R")),
        OpTensor("keep_indices", "INT64", ("T",)),
    ),
    # Read by TensorRT's ONNX parser to find the plugin.
    attributes=("plugin_namespace", "plugin_version"),
)
