"""Bundles for tests of the native half: one with its manifest changed, and what two answers must have in common."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from allrounder.bundle import DIGEST, MANIFEST, digest_of
from allrounder.fingerprint import Machine
from allrounder.manifest import Entry, Latency, Manifest, Percentiles, Workload, decode, encode

SAME = ("text", "token_ids", "prompt_ids", "keep_list", "layer_plan", "finish")


def variant(source: Path, folder: Path, change: Callable[[Entry], Entry]) -> Path:
    """Returns a bundle of the same files (linked) whose entries went through ``change``."""
    shutil.copytree(source, folder, copy_function=os.link)
    manifest = decode((source / MANIFEST).read_bytes(), Manifest, where=source)
    data = encode(msgspec.structs.replace(manifest, entries=tuple(change(entry) for entry in manifest.entries)))
    for name in (MANIFEST, DIGEST):
        (folder / name).unlink()  # they are links: writing into them would change the source
    (folder / MANIFEST).write_bytes(data)
    (folder / DIGEST).write_text(f"{digest_of(data)}\n")
    return folder


def latency(machine: Machine, ttft_ms: float, tpot_ms: float) -> Latency:
    """Returns a latency of which every percentile is another."""
    return Latency(
        ttft_ms=Percentiles(p50=ttft_ms, p95=ttft_ms * 1.25, p99=ttft_ms * 1.5),
        tpot_ms=Percentiles(p50=tpot_ms, p95=tpot_ms * 1.25, p99=tpot_ms * 1.5),
        machine=machine,
        workload=Workload(text_tokens=64, new_tokens=16, batch=1, threads=machine.threads, image_size=192),
    )


def facts(answer: object) -> dict[str, object]:
    """Returns what must be equal between two answers to one request: everything but the time it took."""
    return {name: getattr(answer, name) for name in SAME}
