"""The TensorRT backend: plans on NVIDIA GPUs.

What it is: `allrounder.engines.tensorrt.opening` for TensorRT, opened on import.
What it knows: which library. What it does not know: anything else.
"""

from __future__ import annotations

from allrounder.engines.tensorrt.opening import PlanLibrary
from allrounder.engines.tensorrt.plan_names import TENSORRT

__all__ = ["fingerprint", "open_session"]

_library = PlanLibrary(TENSORRT)
fingerprint, open_session = _library.fingerprint, _library.open_session
