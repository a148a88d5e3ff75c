"""The TensorRT-RTX backend: plans on NVIDIA GPUs. TensorRT-RTX is opened on import."""

from __future__ import annotations

from allrounder.engines.tensorrt.opening import PlanLibrary
from allrounder.engines.tensorrt.plan_names import RTX

__all__ = ["fingerprint", "open_session"]

_library = PlanLibrary(RTX)
fingerprint, open_session = _library.fingerprint, _library.open_session
