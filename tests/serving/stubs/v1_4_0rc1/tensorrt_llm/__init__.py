"""A stub of TensorRT-LLM 1.4.0rc1: signatures that were read, behaviour of stub_behaviour.py."""

from stub_behaviour import LLM, SamplingParams

__all__ = ["LLM", "SamplingParams"]
__version__ = "1.4.0rc1"
