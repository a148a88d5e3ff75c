"""The TensorRT-RTX backend: plans on NVIDIA GPUs.

What it is: `allrounder.runtime.tensorrt_library` for TensorRT-RTX, opened on import.
What it knows: which library. What it does not know: anything else.
"""

from __future__ import annotations

from allrounder.plans import RTX
from allrounder.runtime.tensorrt_library import PlanLibrary

__all__ = ["fingerprint", "open_session"]

_library = PlanLibrary(RTX)
fingerprint, open_session = _library.fingerprint, _library.open_session
