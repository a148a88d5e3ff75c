"""The TensorRT backend: plans on NVIDIA GPUs.

What it is: `allrounder.runtime.tensorrt_library` for TensorRT, opened on import.
What it knows: which library. What it does not know: anything else.
"""

from __future__ import annotations

from allrounder.plans import TENSORRT
from allrounder.runtime.tensorrt_library import PlanLibrary

__all__ = ["fingerprint", "open_session"]

_library = PlanLibrary(TENSORRT)
fingerprint, open_session = _library.fingerprint, _library.open_session
