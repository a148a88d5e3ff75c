"""What ``train-router`` says of memory: one line before every run, a table with ``--estimate``.

What it is: the estimate of `allrounder.router.memory` for people to read. What it knows: that a config is enough.
What it does not know: how the figures come about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from allrounder.commands.tables import table

__all__ = ["MemoryReport", "print_estimate", "summary"]


class MemoryReport(msgspec.Struct, frozen=True):
    """The last line of stdout with ``--estimate``: bytes on the device, in main memory, and of every part."""

    device_bytes: int
    main_bytes: int
    parts: dict[str, int]


def print_estimate(model: str | Path, options: Any, limits: Any, precision: str) -> None:
    """Prints the table, and as the last line of stdout one JSON object. Reads a config, never weights."""
    from allrounder.hosts.spec import read_config, read_spec
    from allrounder.router.known import known_spec

    spec = read_spec(read_config(model)) if Path(model).is_dir() else known_spec(str(model))
    found = _estimate(spec, options, limits, precision)
    rows = [[part.phase, part.name, _gib(part.bytes)] for part in found.parts]
    rows.append(["", "peak on the device", _gib(found.device)])
    rows.append(["", "beside it, in main memory", _gib(found.main)])
    print(table(["when", "what", "GiB"], rows))
    print("not in it: what the device's libraries take for themselves, and fragmentation")
    report = MemoryReport(found.device, found.main, {part.name: part.bytes for part in found.parts})
    print(msgspec.json.encode(report).decode())


def summary(spec: Any, options: Any, limits: Any, precision: str) -> str:
    """Returns one line."""
    found = _estimate(spec, options, limits, precision)
    always = sum(part.bytes for part in found.parts if part.phase == "always")
    return (
        f"memory: about {_gib(found.device)} GiB on the device ({_gib(always)} of it weights and optimiser),"
        f" references up to {_gib(found.main)} GiB of main memory (--estimate tells more)"
    )


def _estimate(spec: Any, options: Any, limits: Any, precision: str) -> Any:
    from allrounder.router.memory import Means, estimate

    means = Means(
        weight=2 if precision == "bf16" else 4,
        autocast=limits.bfloat16,
        checkpoint=limits.checkpoint,
        answer=limits.answer_tokens,
        cache_mib=limits.cache_mib,
    )
    return estimate(spec, options, means)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
