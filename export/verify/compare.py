"""Comparing what a graph computes with what the eager module computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper

from allrounder.errors import VerificationFailed
from allrounder.export.verify.extract import extract, run

__all__ = ["TOLERANCE", "Check", "Comparison"]

# Of the reference's standard deviation. float16 has eleven bits of mantissa, bfloat16 eight; weights are rounded too.
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 4e-1}
_OWN = 1 / 32  # times the tolerance: 3.2 units of float16's and of bfloat16's half last place
_NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": np.float32}  # of rows: bfloat16 graphs are run widened


class Check(NamedTuple):
    """One output that was compared: its largest difference over the reference's standard deviation."""

    graph: str
    value: str
    difference: float


class Comparison:
    """Runs pieces of graphs against references.

    The precision sets the tolerance, and the dtype of rows and caches.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        self._folder, self._tolerance = folder, TOLERANCE[precision]
        self.dtype, self._precision = np.dtype(_NUMPY[precision]), precision
        self._rounded = precision != "fp32"
        self._seen: set[bytes] = set()
        self.checks: list[Check] = []

    def rows(self, tensor: torch.Tensor) -> np.ndarray:
        """Returns a float tensor in the precision of rows and caches."""
        rounded = tensor.detach().bfloat16().float() if self._precision == "bf16" else tensor.detach()
        return rounded.numpy().astype(self.dtype)

    def piece(
        self,
        graph: str,
        model: onnx.ModelProto,
        feeds: Mapping[str, np.ndarray],
        wanted: Mapping[str, torch.Tensor | np.ndarray],
    ) -> None:
        """Cuts the piece from ``feeds`` to ``wanted`` out of a graph, runs it and compares.

        A piece that is equal to one already compared, weights and feeds included, is not run again: versions share
        most of their layers.

        Raises:
            GraphInvalid: The values do not hang together like this in the graph.
            VerificationFailed: Names graph, value and difference.
        """
        inputs = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
        cut = extract(model, inputs, list(wanted))
        key = hashlib.sha256(cut.SerializeToString(deterministic=True))
        for name in sorted(feeds):
            key.update(f"{name} {feeds[name].shape} {feeds[name].dtype}".encode() + feeds[name].tobytes())
        if key.digest() not in self._seen:
            self._seen.add(key.digest())
            self.outputs(graph, run(cut, feeds, self._folder), wanted)

    def whole(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a whole graph and returns its outputs; ``feeds`` may hold more than its inputs."""
        return run(model, feeds, self._folder)

    def outputs(
        self, graph: str, found: Mapping[str, np.ndarray], wanted: Mapping[str, torch.Tensor | np.ndarray]
    ) -> None:
        """Compares outputs by name; integers and booleans exactly.

        Raises:
            VerificationFailed: Names graph, value and difference.
        """
        for name, reference in wanted.items():
            difference = _difference(found[name], np.asarray(reference), rounded=self._rounded)
            self.checks.append(Check(graph, name, difference))
            if not difference <= self._tolerance:
                raise VerificationFailed(
                    "a graph computes something else than the eager module",
                    where=f"{graph}: {name}",
                    got=f"largest difference {difference:.3g} x std of the reference",
                    wanted=f"at most {self._tolerance:g}",
                )

    def worst(self) -> Check | None:
        """Returns the comparison with the largest difference, or None where nothing was compared."""
        return max(self.checks, key=lambda check: check.difference, default=None)


def _difference(found: np.ndarray, wanted: np.ndarray, *, rounded: bool) -> float:
    """Returns the largest difference over the reference's deviation.

    What is ``rounded`` is as coarse as it is large, and language models have a few values a thousand times larger than
    all others. So a value adds its share to the deviation: with the tolerances above about three of its own roundings,
    and next to nothing for a value of usual size.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind in "bi":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    if wanted.size == 0:
        return 0.0
    # A NaN in either makes the result NaN, which no tolerance accepts.
    differences = np.abs(found.astype(np.float64) - wanted)
    deviation = float(wanted.astype(np.float64).std()) or 1.0
    share = np.abs(wanted.astype(np.float64)) * _OWN if rounded else 0.0
    return float((differences / (deviation + share)).max())
