"""Bundles for tests of the native half: one with its manifest changed, and what two answers must have in common."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from allrounder.fingerprint import Machine
from allrounder.manifest import Entry, Latency, Manifest, Percentiles, Workload, decode, encode

POINTER = "bundle.json"
USAGE = ("text_tokens", "image_tokens", "kept_image_tokens", "new_tokens")
SAME = ("text", "token_ids", "prompt_ids", "keep_indices", "kept_layers", "finish")


def manifest_file(bundle: Path) -> Path:
    """Returns the manifest that a bundle's pointer names."""
    return bundle / json.loads((bundle / POINTER).read_bytes())["manifest"]


def seal(bundle: Path, data: bytes) -> None:
    """Makes ``data`` a bundle's manifest, whatever it is; the one of before stays, and is nobody's file."""
    name = f"manifest-{hashlib.sha256(data).hexdigest()}.json"
    (bundle / name).write_bytes(data)
    (bundle / POINTER).unlink()  # it may be a link: writing into it would change another bundle
    (bundle / POINTER).write_text(json.dumps({"manifest": name}), encoding="utf-8")


def variant(source: Path, folder: Path, change: Callable[[Entry], Entry]) -> Path:
    """Returns a bundle of the same files (linked) whose entries went through ``change``."""
    shutil.copytree(source, folder, copy_function=os.link)
    manifest = decode(manifest_file(source).read_bytes(), Manifest, where=source)
    entries = tuple(change(entry) for entry in manifest.entries)
    manifest_file(folder).unlink()  # it is a link, and the new one may have its name
    seal(folder, encode(msgspec.structs.replace(manifest, entries=entries)))
    return folder


def latency(machine: Machine, ttft_ms: float, tpot_ms: float) -> Latency:
    """Returns a latency of which every percentile is another."""
    return Latency(
        ttft_ms=Percentiles(p50=ttft_ms, p95=ttft_ms * 1.25, p99=ttft_ms * 1.5),
        tpot_ms=Percentiles(p50=tpot_ms, p95=tpot_ms * 1.25, p99=tpot_ms * 1.5),
        machine=machine,
        workload=Workload(text_tokens=64, new_tokens=16, batch=1, threads=machine.threads, image_size=192),
    )


def facts(answer: Any) -> dict[str, object]:
    """Returns what must be equal between two answers to one request: everything but the time it took."""
    usage = [getattr(answer.usage, name) for name in USAGE]
    return {name: getattr(answer, name) for name in SAME} | {"usage": usage}
