"""The declaration of the one custom op, ``allrounder::TokenGather``.

The exporter, the native op and the TensorRT plugin are checked against it.

Rule: of ``scores`` [B, N] the k best per row are kept, ties going to the lower index and NaN counting as
-inf; the kept indices are put in ascending order; ``hidden`` and ``positions`` are gathered by them.
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
        OpTensor("hidden", "T", ("B", "N", "H")),
        OpTensor("scores", "FLOAT", ("B", "N")),
        OpTensor("positions", "INT64", ("B", "N")),
    ),
    outputs=(
        OpTensor("gathered", "T", ("B", "k", "H")),
        OpTensor("gathered_positions", "INT64", ("B", "k")),
        OpTensor("keep", "INT64", ("B", "k")),
    ),
    # k is the budget; the other two are read by TensorRT's ONNX parser to find the plugin.
    attributes=("k", "plugin_namespace", "plugin_version"),
)
