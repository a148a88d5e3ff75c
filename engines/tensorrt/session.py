"""The TensorRT backend: plans on NVIDIA GPUs. TensorRT is opened on import."""

from __future__ import annotations

from allrounder.engines.tensorrt.opening import PlanLibrary
from allrounder.engines.tensorrt.plan_names import TENSORRT

__all__ = ["fingerprint", "open_session"]

_library = PlanLibrary(TENSORRT)
fingerprint, open_session = _library.fingerprint, _library.open_session
