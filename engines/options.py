"""How an engine is opened: one frozen record, checked when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypedDict

from allrounder.errors import InputInvalid
from allrounder.fingerprint import usable_cores

__all__ = ["EngineOptions", "EngineOptionsDict", "Provider", "Weights"]

Weights = Literal["fast", "shared"]
Provider = Literal["cuda", "tensorrt"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine.

    Args:
        threads: CPU threads that one step uses; None means all usable cores.
        weights: ``"fast"`` packs weights anew for each session; ``"shared"`` maps the file once for all, slower.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        provider: Which of ONNX Runtime's providers works on a GPU: ``"cuda"``, or ``"tensorrt"`` with what it leaves to
            ``"cuda"``. The other backends have none.
        prefill_rows: How many rows of a prompt the decoder takes at once on a CPU, and the tiles of how many image
            tokens the vision graph does: attention holds a score for every two rows, in every head.

    Raises:
        InputInvalid: Another value.
    """

    threads: int | None = None
    weights: Weights = "fast"
    device: str = "cpu"
    provider: Provider = "cuda"
    prefill_rows: int = 1024

    def __post_init__(self) -> None:
        threads = 1 if self.threads is None else self.threads
        for name, number in (("threads", threads), ("prefill_rows", self.prefill_rows)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise InputInvalid("impossible number", where=name, got=number, wanted="1 or more")
        if self.weights not in ("fast", "shared"):
            raise InputInvalid("unknown mode", where="weights", got=repr(self.weights), wanted="'fast' or 'shared'")
        if not isinstance(self.device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            wanted = "'cpu', 'cuda' or 'cuda:1'"
            raise InputInvalid("unknown device", where="device", got=repr(self.device), wanted=wanted)
        if self.provider not in ("cuda", "tensorrt"):
            wanted = "'cuda' or 'tensorrt'"
            raise InputInvalid("unknown provider", where="provider", got=repr(self.provider), wanted=wanted)
        if self.provider == "tensorrt" and self.device == "cpu":
            remedy = "give device='cuda' as well"
            raise InputInvalid("TensorRT needs a GPU", where="provider", got="'tensorrt' on 'cpu'", remedy=remedy)

    @property
    def thread_count(self) -> int:
        return self.threads or usable_cores()

    @property
    def device_kind(self) -> str:
        """The device without its index."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        return int(self.device.partition(":")[2] or 0)


class EngineOptionsDict(TypedDict, total=False):
    """The options of `EngineOptions` as keyword arguments."""

    threads: int | None
    weights: Weights
    device: str
    provider: Provider
    prefill_rows: int
