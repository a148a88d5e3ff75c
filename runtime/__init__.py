"""The thin runtime: picks an engine by latency target and answers image questions with it.

Every public name is imported on first use, so that ``import allrounder.runtime`` costs next to nothing.

May import: the contract, numpy, tokenizers, pillow, and `engines`, whose sessions import the libraries. Never torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allrounder.runtime.answer import Answer, Timing
    from allrounder.runtime.choice import LatencyTarget
    from allrounder.runtime.door import Cancellation
    from allrounder.runtime.engine import Engine, EngineOptions
    from allrounder.runtime.runtime import Runtime, Stream
    from allrounder.runtime.scheduler import Event, Scheduler

__all__ = [
    "Answer",
    "Cancellation",
    "Engine",
    "EngineOptions",
    "Event",
    "LatencyTarget",
    "Runtime",
    "Scheduler",
    "Stream",
    "Timing",
]

_HOMES = {
    "Answer": "answer",
    "Cancellation": "door",
    "Engine": "engine",
    "EngineOptions": "engine",
    "Event": "scheduler",
    "LatencyTarget": "choice",
    "Runtime": "runtime",
    "Scheduler": "scheduler",
    "Stream": "runtime",
    "Timing": "answer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
