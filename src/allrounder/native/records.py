"""What `client` takes and what it gives back.

What it is: typed records with the names of `allrounder.runtime`, and no others.
What it knows: which options there are. What it does not know: the C interface, and which values make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

__all__ = ["LoadOptions", "NativeAnswer", "NativeTiming", "RequestOptions"]


class LoadOptions(TypedDict, total=False):
    """As for `allrounder.runtime.Runtime.load`; a target is given by its figures. Left out: the default.

    A target chooses by the latencies that the manifest records for this machine, with fast weights; none is measured.
    """

    version: str
    ttft_ms: float
    tpot_ms: float
    percentile: int
    fallback: Literal["fastest"]
    threads: int
    weights: Literal["fast", "shared"]
    device: str
    provider: Literal["cuda", "tensorrt"]
    ids_only: bool  # no tokenizer is read
    ort_library: str | Path  # default: that of the installed package `onnxruntime`
    log: Callable[[str], None]


class RequestOptions(TypedDict, total=False):
    """As for `allrounder.runtime.Runtime.generate`. Left out: the default."""

    prefix_ids: Sequence[int]  # with `suffix_ids` in place of a question
    suffix_ids: Sequence[int]
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int  # the same one draws the same tokens again, though not those of `allrounder.runtime`
    stop: Sequence[str]
    piece: Callable[[str, int], None]  # called with each piece of text and the count of tokens so far


class NativeTiming(NamedTuple):
    """Milliseconds by phase; ``tpot_ms`` is None where there was one token."""

    preprocess_ms: float
    vision_ms: float
    router_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    tpot_ms: float | None


class NativeAnswer(NamedTuple):
    """One answer; the fields are those of `allrounder.runtime.Answer`."""

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    keep_indices: tuple[int, ...]
    kept_layers: tuple[int, ...]
    timing: NativeTiming
    finish: Literal["stop", "length"]
