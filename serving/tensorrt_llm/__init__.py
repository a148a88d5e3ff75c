"""TensorRT-LLM: pruned checkpoints in its PyTorch backend (1.0 and later), and in its engines (1.0 to 1.2.1).

`register` brings pruned LLaVA checkpoints to the PyTorch backend. Call it before ``LLM(...)`` is made, at the top level
of the script: worker processes import the script again. The modules below import TensorRT-LLM on use.
"""

from __future__ import annotations

import importlib

__all__ = ["register"]

_MODEL = "allrounder.serving.tensorrt_llm.llava"


def register() -> None:
    """Registers ``LlavaForConditionalGeneration`` and its input processor with TensorRT-LLM. Again is nothing.

    Raises:
        EngineUnavailable: TensorRT-LLM is not installed, or of a release or with signatures that are not known.
    """
    importlib.import_module(_MODEL)
