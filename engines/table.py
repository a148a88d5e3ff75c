"""The backends, one row each. A backend is a folder; whoever adds one adds a row here and touches nothing else."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BACKENDS", "Row"]


class Row(NamedTuple):
    """A backend: the package with its two halves, and what must be known of it without its library."""

    package: str
    runs: bool = True  # it has a `session`: the runtime runs what its `build` makes
    gpu_alone: bool = False  # its engines run on a GPU, whatever device is named
    cpu_lacks: tuple[str, ...] = ()  # precisions that its library does not compute in on a CPU
    extra: str = "build"  # what is installed to build for it

    @property
    def build(self) -> str:
        """The module that makes engines of graphs (`allrounder.engines.backends.Backend`)."""
        return f"{self.package}.build"

    @property
    def session(self) -> str:
        """The module that runs them (`allrounder.engines.sessions.Backend`)."""
        return f"{self.package}.session"


BACKENDS: dict[str, Row] = {
    # ONNX Runtime 1.31's CPU provider multiplies no bfloat16 matrices
    "onnxruntime": Row("allrounder.engines.onnxruntime", cpu_lacks=("bf16",)),
    "openvino": Row("allrounder.engines.openvino", extra="build,openvino"),
    "checkpoint": Row("allrounder.engines.checkpoint", runs=False),
    "tensorrt": Row("allrounder.engines.tensorrt", gpu_alone=True),
    "tensorrt-rtx": Row("allrounder.engines.tensorrt_rtx", gpu_alone=True),
    "tensorrt-llm": Row("allrounder.engines.tensorrt_llm", runs=False),  # its engine path, legacy
}
