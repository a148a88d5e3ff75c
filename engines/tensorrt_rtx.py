"""The TensorRT-RTX backend: plans for GeForce and RTX GPUs, built on any machine, without a GPU.

What it is: `allrounder.engines.tensorrt` with another library, whose plans hold no kernels: they are made where a plan
is loaded. So one plan serves every architecture from Ampere on that TensorRT-RTX knows, and nothing is timed.
What it knows: that. What it does not know: anything else; the gather is the op's own function, because TensorRT-RTX
takes no plugins.
"""

from __future__ import annotations

from functools import partial

from allrounder.engines import tensorrt
from allrounder.plans import RTX

__all__ = ["BACKEND", "PLACE", "build", "check", "opened"]

BACKEND = RTX.backend
PLACE = tensorrt.PLACE
check = tensorrt.check
opened = partial(tensorrt.opened, flavour=RTX)
build = partial(tensorrt.build, flavour=RTX)
