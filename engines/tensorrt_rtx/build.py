"""The TensorRT-RTX backend: plans for GeForce and RTX GPUs, built on any machine, without a GPU.

It is `allrounder.engines.tensorrt.build` with another library, whose plans hold no kernels: they are made where a plan
is loaded. So one plan serves every architecture from Ampere on that TensorRT-RTX knows, and nothing is timed. The
gather is the op's own function, because TensorRT-RTX takes no plugins.
"""

from __future__ import annotations

from functools import partial

from allrounder.engines.tensorrt import build as tensorrt
from allrounder.engines.tensorrt.plan_names import RTX

__all__ = ["BACKEND", "PLACE", "POLICIES", "build", "check", "opened"]

BACKEND = RTX.backend
PLACE, POLICIES = tensorrt.PLACE, tensorrt.POLICIES
check = tensorrt.check
opened = partial(tensorrt.opened, flavour=RTX)
build = partial(tensorrt.build, flavour=RTX)
